"""MA-AGIQA: a mean opinion score for AI-generated images (paper: Wang et al., ACM MM 2024).

    from ma_agiqa import ImageScorer

    scorer = ImageScorer.load("training/checkpoints/demo")
    scorer([Path("image.png").read_bytes()]).score

The modules are named after the paper's blocks. `import ma_agiqa` alone loads nothing heavy: the
three names below are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ma_agiqa.checkpoints import load_scorer
    from ma_agiqa.networks.scorer import MAAGIQA
    from ma_agiqa.pipeline import ImageScorer

__all__ = ["MAAGIQA", "ImageScorer", "load_scorer"]

_MODULES = {
    "ImageScorer": "ma_agiqa.pipeline",
    "MAAGIQA": "ma_agiqa.networks.scorer",
    "load_scorer": "ma_agiqa.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
