"""Training the scorer: settings, trainer, run folder."""
