"""The commands of `python -m ma_agiqa`, one file each; click is used here alone."""
