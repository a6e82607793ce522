"""Agreement of scores with human opinion, and its confidence intervals."""
