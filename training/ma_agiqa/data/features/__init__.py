"""What the networks need of each image, made once: quality views and prompt embeddings.

mPLUG-Owl2 is frozen (paper §3.2), so its embeddings are computed once per image and kept, with the
decoded quality views, in a folder (`store`):

    python -m ma_agiqa features --config training/configs/demo.yaml

`ensure_features` finds the features of images and makes those that are missing, with mPLUG-Owl2 in
the process (`embedders`) or on a Triton server (`served`). Features are found by the content of an
image's file, and serve only runs with the same weights, prompts and views (`lmm.identity`).
"""

from ma_agiqa.data.features.ensure import Features, ensure_features
from ma_agiqa.data.features.samples import ScorerDataset
from ma_agiqa.data.features.settings import FeatureSettings

__all__ = ["FeatureSettings", "Features", "ScorerDataset", "ensure_features"]
