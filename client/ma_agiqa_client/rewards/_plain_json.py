"""A reader for JSON from the network whose images are strings of base64, often of many megabytes.

Long strings of base64 are cut out before the text is parsed, and are views of it: neither parsed
nor copied, 60 MB of images take a tenth of the time. What is left is short, so that its values can
be counted before they take memory.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

_MAX_VALUES = 1_000_000  # each may take 25 times its size in memory
_LONG = 4096  # characters of a string that is worth cutting out
_BLOCK = 2**20  # bytes that are searched at a time: they fit into a processor's cache
_ALPHABET = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_QUOTE, _BACKSLASH = ord('"'), ord("\\")


class PlainJsonError(Exception):
    """The data is not JSON, or has too many values."""


def read_plain_json(data: bytes | memoryview, image_fields: Mapping[str, Any]) -> Any:
    """Read a JSON text.

    Args:
        data: the text.
        image_fields: names of the fields whose strings, also in lists, may be returned as views of
            `data`, of their characters, with None; or with such a mapping for the fields in them.

    Raises:
        PlainJsonError: it is not JSON, or has over a million values.
    """
    text, images = _without_images(data)
    if sum(map(text.count, (b"[", b"{", b","))) > _MAX_VALUES:
        raise PlainJsonError(
            f"The request has over {_MAX_VALUES:,} values. Send fewer images at once."
        )
    try:
        value = json.loads(text)
        return _with_images(value, images, image_fields) if images else value
    except (ValueError, RecursionError) as error:
        raise PlainJsonError(
            f"The request is not JSON ({error}). Expected an object such as "
            '{"images": ["<base64>", ...]}.'
        ) from error


def _without_images(data: bytes | memoryview) -> tuple[bytes, dict[str, memoryview]]:
    """Replace long strings of base64 by names that no sender can guess.

    Returns:
        The text with the names, and what each stands for.
    """
    view, codes = memoryview(data), np.frombuffer(data, np.uint8)
    if 0 in view[:4]:  # UTF-16 or UTF-32
        return bytes(data), {}
    secret = secrets.token_hex(8)
    pieces, images = list[bytes | memoryview](), dict[str, memoryview]()
    done = last = 0  # end of the last string that was cut out, and the last quotation mark
    for start in range(0, len(codes), _BLOCK):
        found = np.flatnonzero(codes[start : start + _BLOCK] == _QUOTE) + start
        marks = np.concatenate(([last], found))
        last = int(marks[-1])
        for index in np.flatnonzero(np.diff(marks) > _LONG):
            first, end = int(marks[index]) + 1, int(marks[index + 1])
            # A string begins here: after the end of one there is a comma, a bracket or a colon.
            begins = view[first - 1] == _QUOTE and view[first] in _ALPHABET
            if begins and not (codes[max(first - 2, 0) : end] == _BACKSLASH).any():
                name = f"{secret}{len(images)}"
                images[name] = view[first:end]
                pieces += view[done:first], name.encode()
                done = end
    return b"".join((*pieces, view[done:])), images


def _with_images(
    value: Any, images: dict[str, memoryview], image_fields: Mapping[str, Any] | None
) -> Any:
    """Put back what was cut out: as a view in the fields of images, elsewhere as a string."""
    if isinstance(value, dict):
        inside = image_fields or {}
        return {
            _with_images(key, images, {}): _with_images(one, images, inside.get(key, {}))
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_with_images(one, images, image_fields) for one in value]
    if isinstance(value, str) and value in images:
        return images[value] if image_fields is None else str(images[value], "utf-8")
    return value
