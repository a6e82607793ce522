"""mPLUG-Owl2 (paper §3.2): a vision transformer, a visual abstractor and a LLaMA-2 decoder whose
keys, values and norms differ for text and image tokens.

The modules carry the parameter names of the published checkpoint.
"""

from ma_agiqa.lmm.mplug_owl2.configuration import MPlugOwl2Config
from ma_agiqa.lmm.mplug_owl2.model import IMAGE_TOKEN_ID, MPlugOwl2Model

__all__ = ["IMAGE_TOKEN_ID", "MPlugOwl2Config", "MPlugOwl2Model"]
