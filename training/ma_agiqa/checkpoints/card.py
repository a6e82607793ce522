"""The card of a scorer: facts that its users need and that travel with its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ma_agiqa.lmm.sources import PAPER_EMBEDDER

# 0..100 % quantiles of mos_quality over the 2,087 training images of the paper's AGIQA-3k split.
_AGIQA_3K_QUANTILES = (
    0.0, 0.2918, 0.4444, 0.57, 0.6467, 0.7027, 0.7473, 0.7797, 0.8208, 0.8756, 0.9165, 0.9588,
    1.0022, 1.0429, 1.0863, 1.1268, 1.1675, 1.2328, 1.2978, 1.3432, 1.4084, 1.5064, 1.5947,
    1.6765, 1.7495, 1.8192, 1.901, 1.9561, 2.007, 2.0583, 2.1123, 2.1614, 2.2032, 2.2398,
    2.2802, 2.3104, 2.3432, 2.3778, 2.4188, 2.455, 2.4784, 2.5181, 2.5389, 2.5654, 2.6024,
    2.6259, 2.6463, 2.6646, 2.697, 2.7293, 2.7462, 2.7604, 2.7813, 2.8057, 2.8221, 2.8447,
    2.8614, 2.8839, 2.9035, 2.9253, 2.9509, 2.9722, 2.9948, 3.0104, 3.0313, 3.0484, 3.062,
    3.0892, 3.1071, 3.1304, 3.1508, 3.1807, 3.1977, 3.2239, 3.2451, 3.268, 3.2955, 3.3198,
    3.352, 3.3693, 3.3865, 3.4096, 3.4297, 3.4495, 3.4943, 3.5101, 3.5306, 3.5589, 3.5896,
    3.6052, 3.637, 3.6716, 3.6887, 3.7275, 3.773, 3.8174, 3.89, 3.9266, 3.9898, 4.1246, 4.4887,
)  # fmt: skip


@dataclass(frozen=True)
class ModelCard:
    """Facts that users of a scorer need.

    Attributes:
        name: name of the model.
        preset: "demo" or "paper": which mPLUG-Owl2 made its prompt embeddings.
        dataset: data set that it was trained on.
        mos_min, mos_max: ends of the scale.
        metrics: srcc, plcc, krcc, rmse, count and more on the held-out part named under "split";
            None for what is not defined, and empty if nothing was measured.
        mos_quantiles: 101 numbers, the 0..100 % quantiles of the training MOS.
        created: time of creation, ISO 8601, UTC.
        note: a sentence that every reader of a score should see; may be empty.
        embedder: the embedder that it was trained with: the fields of `lmm.identity`'s
            EmbedderIdentity, image_size and hidden_size.
        training: resolved settings of the run, as `train.config.TrainingConfig` reads them.
        split_sha256: hash of the split.
        data_sha256: hash of the images' names, scores and files; empty if not known.
        init_sha256: hash of the scorer that it was trained from (`init_from`), if any.
        git_commit: commit of the code, with "+changes" if files differed from it; None outside a
            repository.
        calibration: how the intervals of its scores and the familiarity of pictures were made, and
            their measured coverage, see `train.calibrate`; empty if it has none.
    """

    name: str
    preset: str
    dataset: str
    mos_min: float
    mos_max: float
    mos_quantiles: tuple[float, ...]
    created: str
    note: str = ""
    embedder: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    split_sha256: str = ""
    data_sha256: str = ""
    init_sha256: str = ""
    git_commit: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self, checkpoint_sha256: str, gate_activation: str) -> dict[str, str]:
        """What clients read of the card, as strings: parameters of the served ensemble.

        Args:
            checkpoint_sha256: hash of the scorer's weights.
            gate_activation: of the scorer's configuration.
        """
        metrics = json.loads(json.dumps(dict(self.metrics)), parse_constant=lambda _: None)  # NaN
        return {
            "name": self.name,
            "preset": self.preset,
            "dataset": self.dataset,
            "mos_min": repr(float(self.mos_min)),
            "mos_max": repr(float(self.mos_max)),
            "metrics": json.dumps(metrics),
            "mos_quantiles": json.dumps([round(float(q), 4) for q in self.mos_quantiles]),
            "checkpoint_sha256": checkpoint_sha256,
            "created": self.created,
            "gate_activation": gate_activation,
            "note": self.note,
            **({"calibration": json.dumps(self.calibration)} if self.calibration else {}),
        }


def official_card() -> ModelCard:
    """Describe the authors' AGIQA-3k checkpoint.

    It claims no metrics: those of a copy can only be measured on the images.
    """
    return ModelCard(
        name="MA-AGIQA (authors' AGIQA-3k checkpoint)",
        preset="paper",
        dataset="AGIQA-3k",
        mos_min=0.0,
        mos_max=5.0,
        mos_quantiles=_AGIQA_3K_QUANTILES,
        created=utc_now(),
        embedder={"source": PAPER_EMBEDDER},
    )


def utc_now() -> str:
    """Give the time in ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
