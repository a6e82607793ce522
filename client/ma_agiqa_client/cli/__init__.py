"""The command line: `python client/score.py`, or `ma-agiqa` when installed."""

from ma_agiqa_client.cli._command import main

__all__ = ["main"]
