"""Photographs damaged by rule, to measure scorers without ratings."""

from ma_agiqa.data.degraded.degradations import DEGRADATIONS, Picture, degrade

__all__ = ["DEGRADATIONS", "Picture", "degrade"]
