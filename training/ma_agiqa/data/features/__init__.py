"""What the networks need of each image, made once: quality views and prompt embeddings.

mPLUG-Owl2 is frozen (paper §3.2), so its embeddings are computed once per image and kept, beside
the decoded quality views, in a folder of memory-mapped arrays (`store`):

    python -m ma_agiqa features --config training/configs/demo.yaml

`extract` fills a store, by one process or several, with mPLUG-Owl2 in the process (`embedders`) or
on a Triton server (`served`); killed, it goes on where it was. `ensure_features` gives a training
its features. Features made by another model, with other prompts or views, or of other images, are
never used (`identity`).
"""

from ma_agiqa.data.features.ensure import ensure_features, open_features
from ma_agiqa.data.features.extract import Extraction, extract
from ma_agiqa.data.features.identity import identify, wanted_identity
from ma_agiqa.data.features.samples import Augmentation, ScorerDataset
from ma_agiqa.data.features.store import Features, FeatureStore

__all__ = [
    "Augmentation",
    "Extraction",
    "FeatureStore",
    "Features",
    "ScorerDataset",
    "ensure_features",
    "extract",
    "identify",
    "open_features",
    "wanted_identity",
]
