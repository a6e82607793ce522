"""Heatmaps: patch score times patch weight (paper Eq. 2) over the image.

The network stretches the whole picture onto its square grid, so the map covers the whole picture.
"""

import errno
import hashlib
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ma_agiqa_client._wire.pictures import open_picture
from ma_agiqa_client.cli._find import MAP_ENDING
from ma_agiqa_client.cli.rows import Map, Row
from ma_agiqa_client.errors import InvalidImageError

COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Colors of the map, evenly spaced from its minimum to its maximum (inferno, CC0)."""

LEGEND = "patch score x patch weight: the quality MANIQA finds in each part, brighter is more"

_LONGEST_SIDE = 1024
_NAME_BYTES = 255  # the most that common file systems allow
_CUT_CHARACTER = "".join(map(chr, range(0xDC80, 0xDD00)))  # bytes of one, as `os.fsdecode` gives
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_HEAT_SHARE = 0.6
_MARGIN = 12
_TEXT_SIZE, _LETTER_WIDTH = 15, 9
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


class Failures(list[tuple[str, str]]):
    """Images whose map or copy could not be made, each with the reason.

    Attributes:
        unwritten: whether a file could not be written, rather than an image be drawn.
    """

    unwritten = False

    @contextmanager
    def of(self, image: str, what: str) -> Iterator[None]:
        """Note what goes wrong with one image, such as an impossible name.

        Raises:
            OSError: it would go wrong with every other image, too.
        """
        try:
            yield
        except (InvalidImageError, ValueError) as error:  # ValueError: a name that has no letters
            self.append((image, f"{what}: {error}"))
        except OSError as error:
            if error.errno in _OF_THE_DISK:
                raise
            self.append((image, f"{what}: {error.strerror or error}."))
            self.unwritten = True


class MapFolder:
    """Writes a heatmap for each row into a folder, under the path of the image."""

    def __init__(self, folder: str) -> None:
        """Prepare; subfolders are created when they are needed."""
        self._folder = Path(folder)
        self.failures = Failures()

    def path(self, image: str) -> Path:
        """Return the path of an image's map: `imgs/a.png` becomes DIR/imgs/a.png.map.jpg."""
        parts = [part for part in re.split(r"[\\/]+", os.path.splitdrive(image)[1]) if part]
        kept = ["__" if part == ".." else part for part in parts if part != "."]
        return self._folder.joinpath(*kept[:-1], fitting(kept[-1], MAP_ENDING))

    def add(self, row: Row) -> None:
        """Draw the map of a scored row; those that cannot be drawn or written go to `failures`.

        Raises:
            OSError: no map can be written, because the disk is full, for example.
        """
        if row.map is None:
            return
        with self.failures.of(row.image, "No map was drawn"):
            image = open_picture(row.image, _LONGEST_SIDE, quickly=True).convert("RGB")
            path = self.path(row.image)
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_map(image, row.map, _title(row)).save(path, "JPEG", quality=88)

    def finish(self) -> None:
        """Do nothing: every map has been written."""


def fitting(name: str, ending: str) -> str:
    """Return a file name with an ending; one that is too long for file systems is cut.

    What is cut off is replaced by 8 hexadecimal digits that depend on the whole name.
    """
    data, room = os.fsencode(name), _NAME_BYTES - len(os.fsencode(ending))
    if len(data) <= room:
        return name + ending
    digest = hashlib.blake2b(data, digest_size=4).hexdigest()
    return f"{os.fsdecode(data[: room - 9]).rstrip(_CUT_CHARACTER)}~{digest}{ending}"


def color_table() -> npt.NDArray[np.uint8]:
    """Return the 256 colors of the map, uint8 (256, 3) RGB."""
    stops = np.linspace(0, 255, len(COLORS))
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*COLORS, strict=True)]
    table: npt.NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table


def shares_of(values: Map) -> Map:
    """Map values to 0-1 between their minimum and their maximum; to 0 if all are equal."""
    span = float(np.ptp(values))
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def lay_over(image: Image.Image, values: Map) -> Image.Image:
    """Blend the image in gray with its interpolated, colored map; returns RGB of the same size."""
    shares = shares_of(values)
    smooth = Image.fromarray(shares.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    levels = np.rint(np.asarray(smooth).clip(0, 1) * 255).astype(np.uint8)
    heat = Image.fromarray(color_table()[levels])
    return Image.blend(image.convert("L").convert("RGB"), heat, _HEAT_SHARE)


def draw_map(image: Image.Image, values: Map, title: str) -> Image.Image:
    """Draw the image, the image under its map, and a legend.

    Args:
        image: RGB.
        values: map of the image, on a grid of any size.
        title: a line of text below the pictures.

    Returns:
        RGB, slightly more than twice as wide as `image`.
    """
    overlay = lay_over(image, values)
    low, high = float(values.min()), float(values.max())
    width, height = image.size
    font = ImageFont.load_default(_TEXT_SIZE)
    letters = max(8, (2 * width + _MARGIN) // _LETTER_WIDTH)
    lines = [line for text in (title, LEGEND) for line in textwrap.wrap(text, letters)]
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
