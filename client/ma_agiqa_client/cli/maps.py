"""Heatmaps: patch score times patch weight (paper Eq. 2) over the image.

The network stretches the whole picture onto its square grid, so the map covers the whole picture.
"""

import os
import re
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ma_agiqa_client._wire.images import upright
from ma_agiqa_client.cli.rows import Patches, Row

COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Colors of the map, evenly spaced from its minimum to its maximum (inferno, CC0)."""

LEGEND = "patch score x patch weight: the quality MANIQA finds in each part, brighter is more"

_LONGEST_SIDE = 1024
_HEAT_SHARE = 0.6
_MARGIN = 12
_TEXT_SIZE = 15
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


class MapFolder:
    """Writes a heatmap for each row into a folder, under the path of the image."""

    def __init__(self, folder: str) -> None:
        """Prepare; subfolders are created when they are needed."""
        self._folder = Path(folder)
        self.failures: list[tuple[str, str]] = []

    def path(self, image: str) -> Path:
        """Return the path of an image's map: `imgs/a.png` becomes DIR/imgs/a.png.map.jpg."""
        parts = [part for part in re.split(r"[\\/]+", os.path.splitdrive(image)[1]) if part]
        kept = ["__" if part == ".." else part for part in parts if part != "."]
        return self._folder.joinpath(*kept[:-1], f"{kept[-1]}.map.jpg")

    def add(self, row: Row) -> None:
        """Draw the map of a scored row; images that Pillow cannot decode go to `failures`.

        Raises:
            OSError: the map cannot be written.
        """
        if row.patches is None:
            return
        try:
            image = open_image(row.image, _LONGEST_SIDE)
        except (OSError, SyntaxError, ValueError) as error:
            self.failures.append((row.image, f"No map was drawn: {error}."))
            return
        path = self.path(row.image)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_map(image, row.patches, _title(row)).save(path, "JPEG", quality=88)

    def finish(self) -> None:
        """Do nothing: every map has been written."""


def open_image(path: str | IO[bytes], longest_side: int) -> Image.Image:
    """Open a file as the server sees it: upright, RGB, first frame. Large images are scaled down.

    Raises:
        OSError, SyntaxError, ValueError: Pillow cannot decode it.
    """
    with Image.open(path) as file:
        file.draft("RGB", (longest_side, longest_side))  # JPEG decodes at a fraction of its size
        image = upright(file).convert("RGB")
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def color_table() -> npt.NDArray[np.uint8]:
    """Return the 256 colors of the map, uint8 (256, 3) RGB."""
    stops = np.linspace(0, 255, len(COLORS))
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*COLORS, strict=True)]
    table: npt.NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table


def lay_over(image: Image.Image, patches: Patches) -> Image.Image:
    """Blend the image in gray with its interpolated, colored map; returns RGB of the same size."""
    quality = patches.quality
    span = float(np.ptp(quality))
    shares = (quality - quality.min()) / span if span > 0 else np.zeros_like(quality)
    smooth = Image.fromarray(shares.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    levels = np.rint(np.asarray(smooth).clip(0, 1) * 255).astype(np.uint8)
    heat = Image.fromarray(color_table()[levels])
    return Image.blend(image.convert("L").convert("RGB"), heat, _HEAT_SHARE)


def draw_map(image: Image.Image, patches: Patches, title: str) -> Image.Image:
    """Draw the image, the image under its map, and a legend.

    Args:
        image: RGB.
        patches: maps of the image, on a grid of any size.
        title: a line of text below the pictures.

    Returns:
        RGB, slightly more than twice as wide as `image`.
    """
    overlay = lay_over(image, patches)
    low, high = float(patches.quality.min()), float(patches.quality.max())
    width, height = image.size
    font = ImageFont.load_default(_TEXT_SIZE)
    lines = _wrap((title, LEGEND), font, 2 * width + _MARGIN)
    legend_height = (len(lines) + 1) * int(_TEXT_SIZE * 1.5) + 2 * _MARGIN
    sheet = Image.new(
        "RGB", (2 * width + 3 * _MARGIN, height + 2 * _MARGIN + legend_height), _PAPER
    )
    sheet.paste(image, (_MARGIN, _MARGIN))
    sheet.paste(overlay, (width + 2 * _MARGIN, _MARGIN))
    _draw_legend(sheet, height + 2 * _MARGIN, lines, (low, high), font)
    return sheet


def _title(row: Row) -> str:
    name = os.path.basename(row.image).encode("utf-8", "replace").decode("utf-8")
    return f"{name} \N{MIDDLE DOT} MOS {row.mos:.3f} \N{MIDDLE DOT} {row.model}"


def _draw_legend(
    sheet: Image.Image,
    top: int,
    lines: list[str],
    ends: tuple[float, float],
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
) -> None:
    draw = ImageDraw.Draw(sheet)
    step = int(_TEXT_SIZE * 1.5)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, top + number * step), line, _INK, font)
    top += len(lines) * step
    low, high = (f"{value:.3f}" for value in ends)
    left = _MARGIN + int(draw.textlength(low, font)) + _MARGIN
    width = min(256, max(32, sheet.width - 2 * left - _MARGIN))
    bar = Image.fromarray(color_table()[None]).resize((width, _TEXT_SIZE))
    draw.text((_MARGIN, top), low, _INK, font)
    sheet.paste(bar, (left, top + 2))
    draw.text((left + width + _MARGIN, top), high, _INK, font)


def _wrap(
    texts: tuple[str, ...], font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", width: int
) -> list[str]:
    lines: list[str] = []
    for text in texts:
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines
