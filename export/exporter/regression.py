"""The measured numbers of a version next to those of the active one, before it takes its place."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LIMITS: Mapping[str, float] = {"srcc": -0.02, "plcc": -0.02, "rmse_raw": 0.05, "coverage": -0.05}
"""The largest change for the worse that is accepted: of RMSE as a share, of the others as it is."""

_SHOWN = ("srcc", "plcc", "rmse_raw", "mae_raw", "bias", "coverage", "width")


@dataclass(frozen=True)
class Change:
    """One number of two versions.

    Attributes:
        name: what was measured.
        before, after: of the active version and of the new one; NaN where it was not measured.
        beyond: whether it is worse by more than its limit.
    """

    name: str
    before: float
    after: float
    beyond: bool

    def __str__(self) -> str:
        return f"{self.name} {_text(self.before)} -> {_text(self.after)}"


def changes(active: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    """Compare the cards of two versions, as strings.

    Limits apply to versions that were measured on the same part of the same data set, that of
    coverage to intervals of the same level.
    """
    before, after = _numbers(active), _numbers(new)
    same = _where(active) == _where(new)
    same_level = _level(active) == _level(new)
    found = []
    for name in _SHOWN:
        old, now = before.get(name, math.nan), after.get(name, math.nan)
        if not math.isnan(old) or not math.isnan(now):
            compared = same and (same_level or name != "coverage")
            found.append(Change(name, old, now, compared and _is_beyond(name, old, now)))
    return found


def _is_beyond(name: str, before: float, after: float) -> bool:
    limit = LIMITS.get(name)
    if limit is None or math.isnan(before):
        return False
    if math.isnan(after):
        return name != "coverage"  # a version without intervals says so itself
    return after > before * (1 + limit) if limit > 0 else after < before + limit


def _numbers(card: Mapping[str, str]) -> dict[str, float]:
    """The numbers of a card: of its test part, and of its intervals there."""
    found = {**json.loads(card.get("metrics", "{}"))}
    found |= json.loads(card.get("calibration") or "{}").get("test", {})
    return dict(_finite(found))


def _finite(values: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


def _where(card: Mapping[str, str]) -> tuple[str | None, str | None]:
    """What a card's numbers were measured on."""
    return card.get("dataset"), json.loads(card.get("metrics", "{}")).get("split")


def _level(card: Mapping[str, str]) -> float | None:
    """The share of people's ratings that the intervals are to hold."""
    return json.loads(card.get("calibration") or "{}").get("level")


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
