"""Scores of millions of images on Ray Data: Parquet in, Parquet out. `python client/bulk.py`."""

from ma_agiqa_client.bulk._command import main

__all__ = ["main"]
