"""The pseudo mean opinion score of a picture that was damaged by rule.

No person rated these pictures. Each gets

    MOS = 5 * (0.03 + 0.92 * content * product(1 - SEVERITY * strength ** 0.8))

over the degradations in it. `content` is 1 for a picture that shows something and a constant of
CONTENT for one that shows nothing. A stronger degradation is so never rated higher, and a second
one never helps. The constants are our judgment of how a person would rank the pictures, not
measurements.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

_FLOOR, _GAIN, _POWER = 0.03, 0.92, 0.8

CONTENT: Mapping[str, float] = MappingProxyType(
    {
        "photograph": 1.0,
        "texture": 0.30,
        "leaves": 0.20,
        "fractal": 0.15,
        "gradient": 0.10,
        "flat": 0.05,
        "noise": 0.02,
    }
)
"""Share of full quality that the content allows."""

SEVERITY: Mapping[str, float] = MappingProxyType(
    {
        "blur": 0.90,
        "motion": 0.85,
        "defocus": 0.90,
        "downscale": 0.90,
        "noise": 0.90,
        "jpeg": 0.85,
        "webp": 0.60,
        "oversmooth": 0.70,
        "color_cast": 0.65,
        "banding": 0.75,
        "oversharpen": 0.80,
        "oversaturate": 0.75,
        "ringing": 0.80,
        "holes": 0.85,
        "shuffle": 0.90,
        "swap": 0.80,
        "repeat": 0.75,
        "melt": 0.85,
    }
)
"""Share of quality that a degradation takes at its full strength."""


def pseudo_mos(content: str, degradations: Sequence[tuple[str, float]] = ()) -> float:
    """Rate a picture from 0.15 (ruined) to 4.75 (a photograph).

    Args:
        content: a key of CONTENT.
        degradations: (key of SEVERITY, strength) of each that was applied.
    """
    quality = CONTENT[content]
    for name, strength in degradations:
        quality *= 1 - SEVERITY[name] * strength**_POWER
    return 5 * (_FLOOR + _GAIN * quality)
