"""Graded damage: every strength changes the picture, and a stronger one changes it more."""

import numpy as np
import pytest

from ma_agiqa.data.degraded import DEGRADATIONS, degrade
from ma_agiqa.errors import ConfigError

STRENGTHS = (0.1, 0.4, 0.7, 1.0)
UNEVEN = ("motion", "defocus", "shuffle", "swap", "repeat", "melt")  # waves and pieces coincide


def photograph() -> np.ndarray:
    """Blobs of color with fine texture; every degradation has something to damage."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:240, :320] / 320
    waves = [np.sin(2 * np.pi * (columns * f + rows * g)) for f, g in ((2, 1), (1, 3), (40, 23))]
    smooth = 128 + 40 * waves[0] + 30 * waves[1] + 15 * waves[2]
    tinted = smooth[..., None] * (1.0, 0.8, 0.6) + rng.normal(0, 8, (240, 320, 3))
    return np.clip(tinted, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_stronger_degradation_changes_more(name):
    picture = photograph()
    kept = picture.copy()
    changes = []
    for strength in STRENGTHS:
        damaged = degrade(picture, name, strength, np.random.default_rng(3))
        again = degrade(picture, name, strength, np.random.default_rng(3))
        assert (damaged.shape, damaged.dtype) == (picture.shape, np.uint8)
        assert np.array_equal(damaged, again)
        changes.append(float(np.abs(damaged.astype(float) - picture).mean()))
    assert np.array_equal(picture, kept)
    assert min(changes) > 0
    assert changes[-1] > changes[0]
    if name not in UNEVEN:
        assert changes == sorted(changes)


@pytest.mark.parametrize("shape", [(33, 47), (16, 64), (200, 31)], ids=str)
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_pictures_of_odd_sizes_keep_their_size(name, shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for strength in (0.01, 1.0):
        assert degrade(picture, name, strength, np.random.default_rng(0)).shape == picture.shape


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        ("rust", 0.5, "choose one of blur"),
        ("blur", 0.0, "above 0"),
        ("blur", 1.1, "at most 1"),
        ("blur", float("nan"), "above 0"),
    ],
)
def test_what_cannot_be_done_is_an_error(name, strength, message):
    with pytest.raises(ConfigError, match=message):
        degrade(photograph(), name, strength, np.random.default_rng(0))
