"""The logistic curve of `metrics`, fitted to many resamples of the same images at once.

Of the curve's four parameters two are linear: for a given center and width the best top and bottom
are those of a straight line through (share of the rise, label). What is left to find is the center
and the width for which that share correlates best with the labels. PLCC is then the size of that
correlation r, and RMSE the labels' standard deviation times sqrt(1 - r^2).

Levenberg-Marquardt steps for all resamples together; the linear parameters are eliminated as in
Kaufman, BIT 15 (1975). The error can have several minima, so several starts are tried.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["refit"]

_MAX_STEPS = 60
_TOLERANCE = 1e-6  # of the squared error, from one step to the next
_DAMPING, _MAX_DAMPING = 1e-3, 1e4

_Array = NDArray[np.float64]


def refit(
    counts: _Array, y: _Array, x: _Array, starts: Sequence[tuple[float, float]]
) -> tuple[_Array, _Array]:
    """Fit the curve to every resample.

    Args:
        counts: how often each image is in each resample, (R, N).
        y, x: labels and predictions (N,); neither all equal.
        starts: center and width of a curve; the best of what they lead to is taken.

    Returns:
        PLCC and RMSE of each resample (R,); PLCC is 0 where nothing that was drawn varies.
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    labels = _centered(shares, np.broadcast_to(y, shares.shape))
    mean, scale = x.mean(), x.std()
    errors = []
    for center, width in starts:
        start = np.array([scale, mean - center]) / abs(width)
        errors.append(_descend(shares, labels, (x - mean) / scale, start))
    error = np.min(errors, axis=0)
    variance = _inner(shares, labels, labels)
    return np.sqrt(1 - np.clip(_divide(error, variance, 1.0), 0, 1)), np.sqrt(error)


def _descend(shares: _Array, labels: _Array, x: _Array, start: _Array) -> _Array:
    """Lowest mean squared error of each resample that is found from a start (2,)."""
    found = np.tile(start, (len(shares), 1))
    damping = np.full(len(shares), _DAMPING)
    error, normal, right = _linearize(shares, labels, x, found)
    active = np.arange(len(shares))
    for _ in range(_MAX_STEPS):
        tried = found[active] + _step(normal[active], right[active], damping[active])
        after, *derivatives = _linearize(shares[active], labels[active], x, tried)
        better = after < error[active]
        settled = better & (after > (1 - _TOLERANCE) * error[active])
        rows = active[better]
        found[rows], error[rows] = tried[better], after[better]
        normal[rows], right[rows] = (values[better] for values in derivatives)
        damping[active] *= np.where(better, 0.1, 10)
        active = active[~settled & (damping[active] < _MAX_DAMPING)]
        if not len(active):
            break
    return error


def _linearize(
    shares: _Array, labels: _Array, x: _Array, parameters: _Array
) -> tuple[_Array, _Array, _Array]:
    """Mean squared error (R,); normal matrix (R, 2, 2) and right side (R, 2) of a step from here.

    Args:
        labels: centered, (R, N).
        x: with mean 0 and standard deviation 1, (N,).
        parameters: a and b of the rise's share 1 / (1 + exp(-a x - b)), (R, 2).
    """
    rise = special.expit(parameters[:, :1] * x + parameters[:, 1:])
    steepness = rise * (1 - rise)
    rise = _centered(shares, rise)
    spread = _inner(shares, rise, rise)
    height = _divide(_inner(shares, rise, labels), spread, 0.0)  # top less bottom
    residual = labels - height[:, None] * rise
    directions = []
    for slope in (steepness * x, steepness):
        slope = _centered(shares, slope)
        along = _divide(_inner(shares, slope, rise), spread, 0.0)
        directions.append(height[:, None] * (slope - along[:, None] * rise))
    normal = [[_inner(shares, a, b) for b in directions] for a in directions]
    right = [_inner(shares, a, residual) for a in directions]
    return (
        _inner(shares, residual, residual),
        np.moveaxis(np.array(normal), 2, 0),
        np.stack(right, axis=1),
    )


def _step(normal: _Array, right: _Array, damping: _Array) -> _Array:
    """Solve the damped equations of every resample: (R, 2)."""
    first = normal[:, 0, 0] * (1 + damping) + np.finfo(np.float64).tiny
    second = normal[:, 1, 1] * (1 + damping) + np.finfo(np.float64).tiny
    mixed = normal[:, 0, 1]
    determinant = first * second - mixed**2
    ahead = np.stack(
        [second * right[:, 0] - mixed * right[:, 1], first * right[:, 1] - mixed * right[:, 0]]
    )
    return _divide(ahead, determinant, 0.0).T


def _centered(shares: _Array, values: _Array) -> _Array:
    return values - _inner(shares, values, np.ones_like(values))[:, None]


def _inner(shares: _Array, a: _Array, b: _Array) -> _Array:
    return np.einsum("rn,rn,rn->r", shares, a, b)


def _divide(above: _Array, below: _Array, otherwise: float) -> _Array:
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below > 0)
