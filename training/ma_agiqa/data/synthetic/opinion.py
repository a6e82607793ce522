"""The pseudo mean opinion score of the synthetic set.

No one rated these images. Each gets

    MOS = clip(5 * (0.03 + 0.90 * content * product(1 - severity)) + rater noise, 0, 5)

- `content`: 1 for a picture that shows something (photograph or scene); for one that shows
  nothing, the constant in CONTENT: from 0.30 for a sharp photograph of a texture down to 0.02 for
  a noise image.
- `severity`: of each degradation in the picture, by name and level, from SEVERITY. Incoherence
  costs more than signal damage does at its slight levels, as in human ratings of generated images.
- rater noise: normal, standard deviation 0.12: what is left of single raters who differ by 0.6
  after averaging 25 of them. It is seeded, so the set is the same each time.

A pristine scene so scores about 4.65, one shuffled throughout about 1.0, a flat field about 0.4.
The constants are our judgment of how a person would rank the pictures, not measurements.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

MOS_MIN, MOS_MAX = 0.0, 5.0
_FLOOR, _GAIN = 0.03, 0.90
_RATER_NOISE = 0.12

CONTENT: Mapping[str, float] = MappingProxyType(
    {
        "photograph": 1.0,
        "scene": 1.0,
        "texture": 0.30,
        "marble": 0.22,
        "dots": 0.20,
        "haze": 0.18,
        "stripes": 0.16,
        "checks": 0.16,
        "mosaic": 0.12,
        "scribble": 0.12,
        "gradient": 0.09,
        "flat": 0.05,
        "noise": 0.02,
    }
)
"""Share of full quality that the content allows."""

SEVERITY: Mapping[str, tuple[float, float, float, float]] = MappingProxyType(
    {
        "shuffle": (0.35, 0.52, 0.68, 0.80),
        "swap": (0.25, 0.40, 0.55, 0.68),
        "holes": (0.28, 0.44, 0.62, 0.76),
        "blur": (0.16, 0.34, 0.54, 0.72),
        "jpeg": (0.12, 0.30, 0.50, 0.70),
        "noise": (0.15, 0.32, 0.52, 0.72),
        "oversmooth": (0.10, 0.22, 0.36, 0.50),
    }
)
"""Share of quality that a degradation takes, at levels 1 to 4."""


def expected_mos(content: str, degradations: Sequence[tuple[str, int]]) -> float:
    """The score without rater noise.

    Args:
        content: a key of CONTENT.
        degradations: (name, level) of each that was applied; none for a pristine picture.
    """
    kept = float(np.prod([1 - SEVERITY[name][level - 1] for name, level in degradations]))
    return MOS_MAX * (_FLOOR + _GAIN * CONTENT[content] * kept)


def rate(content: str, degradations: Sequence[tuple[str, int]], rng: np.random.Generator) -> float:
    """The pseudo-MOS in 0..5, with seeded rater noise, rounded to 0.0001."""
    noisy = expected_mos(content, degradations) + rng.normal(0, _RATER_NOISE)
    return round(float(np.clip(noisy, MOS_MIN, MOS_MAX)), 4)
