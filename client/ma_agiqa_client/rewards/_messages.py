"""The bodies of requests and replies of the reward server. Does no input or output.

A request is a JSON object with `images`, a list of base64 strings (or data URIs) of encoded images,
in either alphabet, with or without line breaks and padding; or, for trainers that send only
pickles, a pickled dictionary with `images`, a list of bytes. Other fields, such as `prompts` and
`metadata`, are ignored. The reply has the same form as the request.
"""

import base64
import json
import pickle
from typing import Any

from ma_agiqa_client.rewards._batch import Rewards
from ma_agiqa_client.rewards._plain_pickle import PlainPickleError, read_plain_pickle

_MAX_VALUES = 1_000_000  # of JSON: each may take 25 times its size in memory
_PICKLE_PROTOCOL = 4
_FIRST_PICKLE_BYTE = b"\x80"  # no JSON text begins with it


class MalformedRequestError(Exception):
    """The body is not a request; the message says what was expected."""


def is_pickle(body: bytes) -> bool:
    """Return whether a body is pickled, rather than JSON."""
    return body.startswith(_FIRST_PICKLE_BYTE)


def read_images(body: bytes, *, max_bytes: int) -> list[bytes]:
    """Return the encoded images of a request.

    Args:
        body: the body of the request.
        max_bytes: maximum size of all images together. A pickle may refer to one image many times,
            so it can be larger than the body; each would be sent, and take memory.

    Raises:
        MalformedRequestError: it is neither JSON nor a pickle of plain values, or has no images, or
            too large ones.
    """
    fields = _read_pickle(body) if is_pickle(body) else _read_json(body)
    images = fields.get("images") if isinstance(fields, dict) else None
    if not isinstance(images, list | tuple) or not images:
        raise MalformedRequestError(
            "The request has no images. Expected an object with `images`, a list of at least one."
        )
    read = _image_bytes if is_pickle(body) else _image_base64
    encoded, size = [], 0
    for index, image in enumerate(images):
        encoded.append(read(index, image))
        size += len(encoded[-1])
        if size > max_bytes:
            raise MalformedRequestError(
                f"The images have over {max_bytes:,} bytes together. Send fewer images at once."
            )
    return encoded


def reply_fields(rewards: Rewards) -> dict[str, Any]:
    """Return the fields of a reply.

    `scores` are in 0-1, and repeated as `outputs`, the name that flow_grpo's DeQA client reads.
    `mos` has None for images without a score, `failed` the indices of the images that got the
    fallback, and `model` the name of the model.
    """
    return {
        "scores": list(rewards.scores),
        "outputs": list(rewards.scores),
        "mos": list(rewards.mos),
        "failed": list(rewards.failed),
        "model": rewards.model,
    }


def write_reply(fields: dict[str, Any], *, pickled: bool) -> tuple[str, bytes]:
    """Encode a reply; return its content type and its bytes."""
    if pickled:
        return "application/octet-stream", pickle.dumps(fields, _PICKLE_PROTOCOL)
    return "application/json", json.dumps(fields, allow_nan=False).encode()


def _read_json(body: bytes) -> Any:
    if sum(map(body.count, (b"[", b"{", b",", b":"))) > _MAX_VALUES:
        raise MalformedRequestError(
            f"The request has over {_MAX_VALUES:,} values. Send fewer images at once."
        )
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
    if not isinstance(image, bytes | bytearray):
        raise MalformedRequestError(
            f"Image {index} is of type {type(image).__name__}; expected the bytes of an image file."
        )
    return bytes(image)


def _image_base64(index: int, image: Any) -> bytes:
    if not isinstance(image, str):
        raise MalformedRequestError(
            f"Image {index} is of type {type(image).__name__}; expected a base64 string."
        )
    text = image.partition(",")[2] if image[:5].lower() == "data:" else image
    text = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:  # characters beyond ASCII, too
        raise MalformedRequestError(
            f"Image {index} is not base64 ({error}). Expected the bytes of an image file in base64."
        ) from error
