"""A web page that ranks images dropped on it: `python client/app.py`."""

from ma_agiqa_client.app._command import main

__all__ = ["main"]
