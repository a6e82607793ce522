"""A small painter for procedural scenes: anti-aliased shapes, textures, light and shadow."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

_SUPERSAMPLING = 2  # painted at twice the size, then averaged down
_SUBPIXEL_BITS = 4  # cv2's fixed-point coordinates

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Mask:
    """Coverage 0..1 (h, w) of a rectangle of the canvas whose corner is (top, left)."""

    top: int
    left: int
    coverage: Image


def hsv(hue: float, saturation: float, value: float) -> Image:
    """RGB (3,) in 0..1 of a color; hue in 0..1 wraps round."""
    pixel = np.array([[[(hue % 1.0) * 360.0, np.clip(saturation, 0, 1), np.clip(value, 0, 1)]]])
    return cv2.cvtColor(pixel.astype(np.float32), cv2.COLOR_HSV2RGB)[0, 0]


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 5
) -> Image:
    """Smooth noise (height, width) with zero mean and a standard deviation of 1.

    Args:
        rng: source of randomness.
        cell: size of the coarsest features in pixels; each octave halves it.
        octaves: number of sizes that are added up, with amplitudes falling by 0.6.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        rows, columns = int(height / step) + 3, int(width / step) + 3
        coarse = rng.standard_normal((rows, columns)).astype(np.float32)
        fine = cv2.resize(
            coarse, (int(columns * step), int(rows * step)), interpolation=cv2.INTER_CUBIC
        )
        total += 0.6**octave * fine[:height, :width]
    return (total - total.mean()) / (total.std() + 1e-6)


class Canvas:
    """A picture in the making.

    Positions are fractions of width and height; radii and line widths are fractions of the
    shorter side. Colors are RGB (3,) in 0..1.
    """

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng = rng
        self.size = (width, height)
        self.width, self.height = width * _SUPERSAMPLING, height * _SUPERSAMPLING
        self.short = min(self.width, self.height)
        self.pixels = np.zeros((self.height, self.width, 3), np.float32)
        self._fine = fractal_noise(rng, self.height, self.width, self.short / 24)
        self._coarse = fractal_noise(rng, self.height, self.width, self.short / 5)

    # Shapes

    def everything(self) -> Mask:
        """The whole canvas."""
        return Mask(0, 0, np.ones((self.height, self.width), np.float32))

    def polygon(self, points: ArrayLike) -> Mask:
        """A filled polygon through points (N, 2)."""
        corners = np.asarray(points, np.float64) * (self.width, self.height)
        low, high = self._box(corners.min(0), corners.max(0))
        coverage = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        fixed = np.rint((corners - low) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(coverage, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return Mask(low[1], low[0], coverage.astype(np.float32) / 255)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float) -> Mask:
        """An upright rectangle."""
        return self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Mask:
        """An ellipse with radii rx, ry, turned by an angle in radians."""
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        along, across = rx * self.short * np.cos(turn), ry * self.short * np.sin(turn)
        px = x + (along * np.cos(angle) - across * np.sin(angle)) / self.width
        py = y + (along * np.sin(angle) + across * np.cos(angle)) / self.height
        return self.polygon(np.stack([px, py], 1))

    def disc(self, x: float, y: float, radius: float) -> Mask:
        """A circle."""
        return self.ellipse(x, y, radius, radius)

    def stroke(self, points: Sequence[tuple[float, float]], width: float) -> Mask:
        """A line of the given width through points, with round ends."""
        corners = np.asarray(points, np.float64) * (self.width, self.height)
        thickness = max(1, round(width * self.short))
        low, high = self._box(corners.min(0) - thickness, corners.max(0) + thickness)
        coverage = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        fixed = np.rint((corners - low) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.polylines(coverage, [fixed], False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        return Mask(low[1], low[0], coverage.astype(np.float32) / 255)

    def under(self, heights: ArrayLike) -> Mask:
        """Everything under a skyline given at evenly spaced columns."""
        y = np.asarray(heights, np.float64)
        x = np.linspace(0, 1, len(y))
        return self.polygon([(0, 1.02), *zip(x, y, strict=True), (1, 1.02)])

    # Painting

    def paint(self, mask: Mask, color: ArrayLike, texture: float = 0.05, fade: float = 1.0) -> None:
        """Cover a mask with a color, roughened by texture (relative standard deviation)."""
        area, coverage = self._area(mask)
        if area.size == 0:
            return
        grain = texture * (self._patch(self._fine, area) + 0.6 * self._patch(self._coarse, area))
        layer = np.asarray(color, np.float32) * (1 + grain[..., None])
        area += (fade * coverage)[..., None] * (layer - area)

    def gradient(
        self, mask: Mask, top: ArrayLike, bottom: ArrayLike, texture: float = 0.02
    ) -> None:
        """Cover a mask with a color that changes from top to bottom of the mask."""
        share = np.linspace(0, 1, mask.coverage.shape[0], dtype=np.float32)[:, None, None]
        blend = (1 - share) * np.asarray(top, np.float32) + share * np.asarray(bottom, np.float32)
        visible = slice(max(-mask.top, 0), max(self.height - mask.top, 0))
        self.paint(mask, blend[visible], texture)

    def shade(self, mask: Mask, amount: float) -> None:
        """Darken (amount < 0) or lighten what a mask covers."""
        area, coverage = self._area(mask)
        area *= 1 + amount * coverage[..., None]

    def shadow(self, x: float, y: float, rx: float, ry: float, amount: float = 0.45) -> None:
        """A soft elliptic shadow."""
        for grow in (1.25, 1.05, 0.85):
            self.shade(self.ellipse(x, y, rx * grow, ry * grow), -amount / 3)

    def glow(self, x: float, y: float, radius: float, color: ArrayLike, amount: float) -> None:
        """Add light that falls off with the distance from a point."""
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.float32)
        distance = np.hypot(columns - x * self.width, rows - y * self.height) / self.short
        light = amount * np.exp(-((distance / radius) ** 2))
        self.pixels += light[..., None] * np.asarray(color, np.float32)

    def ball(self, x: float, y: float, radius: float, color: ArrayLike, squash: float = 1) -> None:
        """A glossy ball lit from the upper left; squash is height over width."""
        self._round(self.ellipse(x, y, radius, radius * squash), color, gloss=0.6, texture=0.05)

    def ball_matt(
        self, x: float, y: float, radius: float, color: ArrayLike, squash: float = 1
    ) -> None:
        """A round body without a highlight: skin, fur."""
        self._round(self.ellipse(x, y, radius, radius * squash), color, gloss=0.0, texture=0.08)

    def _round(self, mask: Mask, color: ArrayLike, gloss: float, texture: float) -> None:
        area, coverage = self._area(mask)
        rows, columns = np.mgrid[-1 : 1 : area.shape[0] * 1j, -1 : 1 : area.shape[1] * 1j]
        depth = np.sqrt(np.clip(1 - rows**2 - columns**2, 0, 1))
        ambient = 0.25 if gloss else 0.5
        light = ambient + (1.1 - ambient) * np.clip(
            -0.45 * columns - 0.55 * rows + 0.7 * depth, 0, 1
        )
        shine = gloss * np.exp(-(((columns + 0.35) / 0.18) ** 2) - ((rows + 0.4) / 0.16) ** 2)
        grain = 1 + texture * self._patch(self._fine, area)
        layer = np.asarray(color) * (light * grain)[..., None] + shine[..., None]
        area += coverage[..., None] * (layer.astype(np.float32) - area)

    def finish(self) -> NDArray[np.uint8]:
        """The picture as uint8 RGB (height, width, 3): light from one side, vignette, grain."""
        rows, columns = np.mgrid[-1 : 1 : self.height * 1j, -1 : 1 : self.width * 1j]
        tilt = self.rng.uniform(-0.12, 0.12, 2)
        light = 1 + tilt[0] * columns + tilt[1] * rows - 0.08 * (rows**2 + columns**2)
        small = cv2.resize(
            (self.pixels * light[..., None]).astype(np.float32),
            self.size,
            interpolation=cv2.INTER_AREA,
        )
        small += self.rng.normal(0, 0.008, small.shape).astype(np.float32)
        return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)

    def _box(self, low: ArrayLike, high: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        limit = (self.width + 2, self.height + 2)
        first = np.clip(np.floor(low) - 1, -2, limit).astype(np.int64)
        last = np.clip(np.ceil(high) + 2, -2, limit).astype(np.int64)
        return first, np.maximum(last, first + 1)

    def _area(self, mask: Mask) -> tuple[Image, Image]:
        """The canvas under a mask (a view) and the mask's part inside the canvas."""
        rows, columns = mask.coverage.shape
        top, left = max(mask.top, 0), max(mask.left, 0)
        bottom, right = min(mask.top + rows, self.height), min(mask.left + columns, self.width)
        inside = mask.coverage[top - mask.top : bottom - mask.top, left - mask.left :]
        area = self.pixels[top : max(bottom, top), left : max(right, left)]
        return area, inside[: area.shape[0], : area.shape[1]]

    def _patch(self, noise: Image, area: Image) -> Image:
        """A piece of a noise field of an area's shape, from a random place."""
        rows, columns = area.shape[:2]
        top = self.rng.integers(0, self.height - rows + 1)
        left = self.rng.integers(0, self.width - columns + 1)
        return noise[top : top + rows, left : left + columns]
