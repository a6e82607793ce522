"""The report: one HTML page that contains everything, including thumbnails and maps.

It loads nothing: its content security policy forbids it. The parts of the page are in
`report_assets`. While scores arrive, pictures are written to a temporary file, so that only a few
numbers per image are in memory.
"""

import base64
import io
import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from typing import IO, Any

import numpy as np
from PIL import Image

from ma_agiqa_client._wire.pictures import open_picture
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli.maps import COLORS, LEGEND, shares_of
from ma_agiqa_client.cli.output import (
    EXTRAPOLATION,
    TIE,
    is_extrapolation,
    is_tied,
    meaning,
    replacement,
)
from ma_agiqa_client.cli.rows import Map, Row
from ma_agiqa_client.errors import InvalidImageError

_BLOCK = 40
_QUALITY = 75
_SIDES = ((100, 640), (500, 400), (1000, 320), (4000, 240))
_SMALLEST_SIDE = 160


class Report:
    """Takes rows one after the other, and writes the page at the end."""

    def __init__(self, path: str, card: ModelCard, *, title: str, expected: int) -> None:
        """Prepare; nothing is written to `path` before `finish`.

        Args:
            path: the HTML file, replaced if it exists.
            card: the model that gave the scores.
            title: headline of the page.
            expected: approximate number of images; the more, the smaller the thumbnails.
        """
        self._path = path
        self._card = card
        self._title = title
        self._side = thumbnail_side(expected)
        self._images: list[dict[str, Any]] = []
        self._failures: list[dict[str, str]] = []
        self._maps = False
        self._spool: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115

    def add(self, row: Row) -> None:
        """Take a row, and read its image for the thumbnail.

        Raises:
            OSError: the temporary file cannot be written.
        """
        if row.error is not None:
            self._failures.append({"image": row.image, "error": row.error})
            return
        record = row.to_dict()
        shown = {name: record.get(name) for name in _SHOWN}
        marks = {"foreign": is_extrapolation(row, self._card), "tied": is_tied(row)}
        self._images.append(shown | marks)
        self._maps = self._maps or row.map is not None
        self._spool.write(json.dumps(_picture(row, self._side)) + "\n")

    def finish(self) -> None:
        """Write the page, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        with (
            self._spool,
            replacement(self._path) as draft,
            open(draft, "w", encoding="utf-8") as page,
        ):
            page.writelines(self._pieces())

    def _pieces(self) -> Iterator[str]:
        assets = files("ma_agiqa_client.cli") / "report_assets"
        text = (assets / "page.html").read_text("utf-8")
        text = text.replace("/*STYLE*/", (assets / "page.css").read_text("utf-8"))
        head, tail = text.split("<!--DATA-->")
        yield head
        yield _json_script("report", self._data())
        self._spool.seek(0)
        for number in range(-(-len(self._images) // _BLOCK)):
            lines = (self._spool.readline() for _ in range(_BLOCK))
            block = [json.loads(line) for line in lines if line]
            yield _json_script(f"pictures-{number}", block)
        yield tail.replace("/*SCRIPT*/", (assets / "page.js").read_text("utf-8"))

    def _data(self) -> dict[str, Any]:
        card = self._card
        names = ("name", "dataset", "mos_min", "mos_max", "note", "checkpoint_sha256")
        return {
            "title": self._title,
            "created": datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
            "model": {name: getattr(card, name) for name in names},
            "meaning": meaning(card),
            "level": card.calibration.level if card.calibration else None,
            "remarks": {"foreign": EXTRAPOLATION, "tied": TIE},
            "legend": LEGEND,
            "colors": COLORS,
            "maps": self._maps,
            "block": _BLOCK,
            "images": self._images,
            "failures": self._failures,
        }


_SHOWN = ("image", "group", "mos", "normalized", "percentile", "interval", "lead", "gate")


def thumbnail_side(images: int) -> int:
    """Return the longest side of a thumbnail in pixels: the more images, the smaller.

    Up to about 4,000 images the page has about 20 MB; beyond that, it grows with each image.
    """
    return next((side for most, side in _SIDES if images <= most), _SMALLEST_SIDE)


def _picture(row: Row, side: int) -> dict[str, Any]:
    """Return thumbnail (a data URI; None if Pillow cannot decode the image), size and map."""
    picture: dict[str, Any] = {"thumbnail": None, "size": [1, 1], "map": None}
    try:
        image = open_picture(row.image, side, quickly=True)
    except InvalidImageError:
        pass  # there is still a score; the page says that there is no preview
    else:
        picture |= {"thumbnail": data_uri(image), "size": list(image.size)}
    if row.map is not None:
        picture["map"] = _map(row.map)
    return picture


def data_uri(image: Image.Image) -> str:
    """Return a picture as a data URI, a compressed WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _map(values: Map) -> dict[str, Any]:
    """Return the map as bytes 0-255 between its minimum and its maximum."""
    levels = np.rint(shares_of(values) * 255).astype(np.uint8)
    return {
        "shape": list(values.shape),
        "low": float(values.min()),
        "high": float(values.max()),
        "values": base64.b64encode(levels.tobytes()).decode("ascii"),
    }


def _json_script(name: str, data: Any) -> str:
    """Return a script element with data only; `<` is escaped, so no text can end it early."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'
