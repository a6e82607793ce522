"""What travels between a trainer and the reward server, without any input or output.

A request is a JSON object with `images`, a list of base64 strings (or data URIs) of encoded images;
or, for trainers that speak only that, a pickled dictionary with `images`, a list of bytes. Whatever
else it holds, such as `prompts` and `metadata`, is not looked at. The answer has the same form.
"""

import base64
import binascii
import json
import pickle
from typing import Any

from ma_agiqa_client.rewards._batch import Rewards
from ma_agiqa_client.rewards._plain_pickle import PlainPickleError, read_plain_pickle

__all__ = ["MalformedRequestError", "is_pickle", "read_images", "reply_fields", "write_reply"]

_PICKLE_PROTOCOL = 4
_FIRST_PICKLE_BYTE = b"\x80"  # no JSON text begins with it


class MalformedRequestError(ValueError):
    """The body is not a request; the message says what was expected."""


def is_pickle(body: bytes) -> bool:
    """Whether a body is pickled, not JSON."""
    return body.startswith(_FIRST_PICKLE_BYTE)


def read_images(body: bytes) -> list[bytes]:
    """Take the encoded images out of a request.

    Raises:
        MalformedRequestError: it is neither JSON nor a pickle of plain values, or has no images.
    """
    fields = _read_pickle(body) if is_pickle(body) else _read_json(body)
    images = fields.get("images") if isinstance(fields, dict) else None
    if not isinstance(images, list | tuple) or not images:
        raise MalformedRequestError(
            "The request has no images. Expected an object with `images`, a list of at least one."
        )
    read = _image_bytes if is_pickle(body) else _image_base64
    return [read(index, image) for index, image in enumerate(images)]


def reply_fields(rewards: Rewards) -> dict[str, Any]:
    """The answer: `scores` in 0-1, also as `outputs`, the name that flow_grpo's DeQA client knows.

    Beside them `mos` (None where there is none), `failed`, the places of the images that got the
    fallback, and `model`.
    """
    return {
        "scores": list(rewards.scores),
        "outputs": list(rewards.scores),
        "mos": list(rewards.mos),
        "failed": list(rewards.failed),
        "model": rewards.model,
    }


def write_reply(fields: dict[str, Any], *, pickled: bool) -> tuple[str, bytes]:
    """Write an answer; give its content type and its bytes."""
    if pickled:
        return "application/octet-stream", pickle.dumps(fields, _PICKLE_PROTOCOL)
    return "application/json", json.dumps(fields, allow_nan=False).encode()


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequestError(
            f"The request is not JSON ({error}). Expected an object such as "
            '{"images": ["<base64>", ...]}.'
        ) from error


def _read_pickle(body: bytes) -> Any:
    try:
        return read_plain_pickle(body)
    except PlainPickleError as error:
        raise MalformedRequestError(str(error)) from error


def _image_bytes(index: int, image: Any) -> bytes:
    if not isinstance(image, bytes):
        raise MalformedRequestError(
            f"Image {index} is of type {type(image).__name__}; expected the bytes of an image file."
        )
    return image


def _image_base64(index: int, image: Any) -> bytes:
    if not isinstance(image, str):
        raise MalformedRequestError(
            f"Image {index} is of type {type(image).__name__}; expected a base64 string."
        )
    text = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise MalformedRequestError(
            f"Image {index} is not base64 ({error}). Expected the bytes of an image file in base64."
        ) from error
