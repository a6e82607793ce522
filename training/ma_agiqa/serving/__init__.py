"""What the served models share and training never needs."""
