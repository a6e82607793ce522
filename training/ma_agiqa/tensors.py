"""The tensors between the served models: one description for Python, export and `config.pbtxt`.

    IMAGE --preprocess--> QUALITY_VIEW, SEMANTIC_VIEW
    SEMANTIC_VIEW --mplug_owl2--> SEMANTIC, COHERENCE                          (paper Eq. 3)
    QUALITY_VIEW, SEMANTIC, COHERENCE --maniqa_moe--> SCORE, GATE,
                                                      PATCH_SCORE, PATCH_WEIGHT (Eq. 1-4),
                                                      INTERVAL, FAMILIARITY if it is calibrated
    SCORE, GATE, FAMILIARITY --meter--> the same, unchanged and counted

Past the networks, `preprocess` gives `meter` ARRIVED, when it took the request, in seconds of the
machine's monotonic clock.

and, where an image comes with the text it was made from (`lmm/alignment.py`),

    SEMANTIC_VIEW, PROMPT_TEXT --mplug_owl2--> SEMANTIC, COHERENCE, ALIGNMENT

and, where images are explained in words (paper Fig. 5),

    IMAGE, QUESTION --mplug_owl2_answer--> TEXT, piece by piece, by way of
    SEMANTIC_VIEW, PROMPT --mplug_owl2--> NEXT_TOKEN

Shapes leave out the batch dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MAX_BATCH_SIZE = 32
"""Images in one batch, in every served model."""

QUALITY_SIZE = 224
"""Side of the quality view in pixels (paper §4.2)."""

GATE_ORDER = ("semantic", "coherence", "quality")
"""Order of the inputs in the gate and in GATE, as in the official code."""


@dataclass(frozen=True)
class TensorSpec:
    """A served tensor: its name, Triton data type and shape without the batch dimension.

    A size of -1 is any; an optional input may be left out of a request.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]
    optional: bool = False


def tensor_specs(
    semantic_size: int, hidden_size: int, quality_size: int, patch_grid: int
) -> Mapping[str, TensorSpec]:
    """Describe every served tensor for one pair of models.

    Args:
        semantic_size: side of the LMM's view in pixels (paper: 448).
        hidden_size: width of a prompt embedding (paper: 4096).
        quality_size: side of MANIQA's view in pixels (paper: 224).
        patch_grid: patches along a side of MANIQA's view (paper: 28).
    """
    specs = (
        TensorSpec("IMAGE", "TYPE_STRING", (1,)),
        TensorSpec("QUALITY_VIEW", "TYPE_UINT8", (quality_size, quality_size, 3)),
        TensorSpec("SEMANTIC_VIEW", "TYPE_UINT8", (semantic_size, semantic_size, 3)),
        TensorSpec("ARRIVED", "TYPE_FP64", (1,), optional=True),
        TensorSpec("SEMANTIC", "TYPE_FP32", (hidden_size,)),
        TensorSpec("COHERENCE", "TYPE_FP32", (hidden_size,)),
        TensorSpec("SCORE", "TYPE_FP32", (1,)),
        TensorSpec("GATE", "TYPE_FP32", (3,)),
        TensorSpec("PATCH_SCORE", "TYPE_FP32", (patch_grid, patch_grid)),
        TensorSpec("PATCH_WEIGHT", "TYPE_FP32", (patch_grid, patch_grid)),
        TensorSpec("INTERVAL", "TYPE_FP32", (2,)),
        TensorSpec("FAMILIARITY", "TYPE_FP32", (1,)),
        TensorSpec("PROMPT_TEXT", "TYPE_STRING", (1,), optional=True),
        TensorSpec("ALIGNMENT", "TYPE_FP32", (1,)),
        TensorSpec("QUESTION", "TYPE_STRING", (1,)),
        TensorSpec("TEXT", "TYPE_STRING", (1,)),
        TensorSpec("PROMPT", "TYPE_INT32", (-1,), optional=True),
        TensorSpec("NEXT_TOKEN", "TYPE_INT32", (1,)),
    )
    return {spec.name: spec for spec in specs}
