"""A page for people: drop images, see them ranked. `python client/app.py`."""

from ma_agiqa_client.app._command import main

__all__ = ["main"]
