"""The command line: `python client/score.py`, `ma-agiqa`."""

from ma_agiqa_client.cli._command import main

__all__ = ["main"]
