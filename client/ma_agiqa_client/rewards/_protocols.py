"""What each trainer sends and expects, as bytes and values. Does no input or output.

| protocol | request | reply |
| --- | --- | --- |
| own, flow_grpo, verl-omni | `images`: base64 in JSON, or bytes in a pickle | `scores`, `outputs` |
| UniRL | `requests[i]`: `history`, `required_rewards` | `results[i][name]`, `errors[i][name]` |
| Flow-Factory | `image`, `prompt` | `rewards` |
| OpenRLHF-like | `query`, `prompts` | `rewards`, `scores`, `extra_logs` |
| cosmos-rl | a line of JSON, then an array as .npy | `scores[name]`, fetched later |

The protocols were read in the code of the projects' clients. Images of JSON are base64 (or data
URIs), in either alphabet, with or without line breaks and padding.
"""

import json
import math
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import pybase64

from ma_agiqa_client._wire.arrays import encode_array
from ma_agiqa_client.errors import InvalidImageError
from ma_agiqa_client.rewards._batch import Batch, Rewards, WrongInputError, refuse_wrong_array
from ma_agiqa_client.rewards._plain_json import PlainJsonError, read_plain_json
from ma_agiqa_client.rewards._plain_pickle import PlainPickleError, read_plain_pickle

_MAX_IMAGES = 4096  # of a request: each is scored, even if others fail
_MAX_NAMES = 64  # of rewards that a request of UniRL asks for
_MAX_PROMPT = 2**16  # characters
_PICKLE_PROTOCOL = 4
_FIRST_PICKLE_BYTE = b"\x80"  # no JSON text begins with it
_ARRAYS = (b"\x93NUMPY", b"PK\x03\x04")  # files of numpy.save, torch.save
_IMAGE_FIELDS = {
    **dict.fromkeys(("images", "image", "query")),
    "requests": {"history": {"image_b64": None}},
}
_MAX_NPY_HEADER = 2**16  # bytes; NumPy reads at most 10,000

Body: TypeAlias = bytes | memoryview
Reply: TypeAlias = Callable[[Rewards], dict[str, Any]]


class MalformedRequestError(Exception):
    """The body is not a request; the message says what was expected."""


@dataclass(frozen=True)
class Call:
    """What a trainer asks for.

    Attributes:
        batch: its images, prompts and metadata.
        reply: makes the fields of the answer.
        names: the rewards to compute; None for all.
        partial: whether the answer can say which rewards failed. If not, one is an error of all.
        pickled: whether the answer is a pickle.
    """

    batch: Batch
    reply: Reply
    names: tuple[str, ...] | None = None
    partial: bool = False
    pickled: bool = False


def is_pickle(body: Body) -> bool:
    """Return whether a body is pickled, rather than JSON."""
    return body[:1] == _FIRST_PICKLE_BYTE


def read_score(body: Body, max_bytes: int) -> Call:
    """Read a request of flow_grpo, verl-omni, UniRL, or in the form of this server's own.

    Args:
        body: the body of the request.
        max_bytes: maximum size of all images together. A pickle may refer to one image many times,
            so it can be larger than the body; each would be sent, and take memory.

    Raises:
        MalformedRequestError: it is neither JSON nor a pickle of plain values, or too large.
        WrongInputError: it has no images, or something else instead.
    """
    pickled = is_pickle(body)
    fields = _read_pickle(body) if pickled else _read_json(body)
    if "requests" in fields:
        return _read_unirl(fields["requests"], max_bytes)
    images = _images(fields.get("images"), "images", max_bytes)
    metadata = fields.get("metadata") or fields.get("meta_datas") or ()
    return Call(
        Batch(
            images,
            _prompts(fields.get("prompts"), len(images)),
            metadata if isinstance(metadata, list | tuple) and len(metadata) == len(images) else (),
        ),
        reply=own_fields,
        pickled=pickled,
    )


def read_compute(body: Body, max_bytes: int) -> Call:
    """Read a request of Flow-Factory, of several images or of a group of one prompt.

    Raises:
        MalformedRequestError, WrongInputError: as in `read_score`.
    """
    fields = _read_json(body)
    if fields.get("video"):
        raise WrongInputError("Got videos.")
    images = _images(fields.get("image"), "image", max_bytes)
    prompts = _prompts(fields.get("prompt"), len(images))
    return Call(Batch(images, prompts), lambda rewards: {"rewards": list(rewards.scores)})


def read_query(body: Body, max_bytes: int) -> Call:
    """Read a request like those of OpenRLHF, with images in place of its texts.

    Raises:
        MalformedRequestError, WrongInputError: as in `read_score`.
    """
    fields = _read_json(body)
    images = _images(fields.get("query"), "query", max_bytes)
    prompts = _prompts(fields.get("prompts"), len(images))

    def reply(rewards: Rewards) -> dict[str, Any]:
        scores = list(rewards.scores)
        return {"rewards": scores, "scores": scores, "extra_logs": dict(rewards.parts)}

    return Call(Batch(images, prompts), reply)


def read_enqueued(body: Body, max_bytes: int) -> Call:
    """Read a request of cosmos-rl.

    Raises:
        MalformedRequestError, WrongInputError: as in `read_score`.
    """
    line = re.search(rb"\n", body)
    if line is None:
        raise MalformedRequestError(
            "The request has no second line. Expected a line of JSON, and then an array as .npy."
        )
    fields = _read_json(body[: line.start()])
    if (kind := fields.get("media_type")) != "image":
        raise WrongInputError(f"Got media_type {kind!r:.80} in place of 'image'.")
    weights = fields.get("reward_fn")
    if not isinstance(weights, dict) or not weights:
        raise MalformedRequestError("Expected `reward_fn`, an object with the rewards' names.")
    images = _read_array(body, line.end(), max_bytes)
    prompts = _prompts(fields.get("prompts"), len(images))
    return Call(Batch(images, prompts), lambda rewards: dict(rewards.parts), tuple(weights))


def own_fields(rewards: Rewards) -> dict[str, Any]:
    """Return the fields of this server's own reply.

    `scores` are repeated as `outputs`, the name that flow_grpo's DeQA client reads.
    """
    return {
        "scores": list(rewards.scores),
        "outputs": list(rewards.scores),
        "mos": list(rewards.mos),
        "failed": list(rewards.failed),
        "model": rewards.model,
        **part_fields(rewards),
    }


def part_fields(rewards: Rewards) -> dict[str, Any]:
    """Return the fields of a reply that name every reward and every error."""
    return {"parts": dict(rewards.parts), "errors": _sentences(rewards)}


def pulled_fields(rewards: Rewards, name: str) -> dict[str, Any]:
    """Return the reply of cosmos-rl to a trainer that fetches one reward.

    If it failed for an image there are no scores, as there: the trainer would take NaN for 0.
    """
    errors = [errors[name] for errors in rewards.errors if name in errors]
    reply: dict[str, Any] = {"scores": {name: rewards.parts[name]}, "type": name}
    if errors:
        reply |= {"scores": None, "error": str(errors[0]), "errors": _sentences(rewards)}
    return reply


def write_reply(fields: dict[str, Any], *, pickled: bool) -> tuple[str, bytes]:
    """Encode a reply; return its content type and its bytes."""
    if pickled:
        return "application/octet-stream", pickle.dumps(fields, _PICKLE_PROTOCOL)
    return "application/json", json.dumps(fields, allow_nan=False).encode()


def _read_unirl(requests: Any, max_bytes: int) -> Call:
    """Read a request of UniRL: of a conversation, the last picture is what was generated."""
    if not isinstance(requests, list) or not all(isinstance(one, dict) for one in requests):
        raise MalformedRequestError("Expected `requests`, a list of objects.")
    if len(requests) > _MAX_IMAGES:
        raise _too_many(len(requests))
    texts, prompts, wanted, metadata = [], [], [], []
    for one in requests:
        history, names = one.get("history"), one.get("required_rewards")
        if not isinstance(history, list) or not history or not isinstance(history[-1], dict):
            raise MalformedRequestError("Expected `history`, a list of objects, in each request.")
        texts_only = isinstance(names, list) and all(type(n) is str for n in names[:_MAX_NAMES])
        if not texts_only or not 0 < len(names) <= _MAX_NAMES:
            raise MalformedRequestError(
                f"Expected `required_rewards`, 1 to {_MAX_NAMES} names, in each request."
            )
        if history[-1].get("image_b64") is None:
            raise WrongInputError("Got a turn without image_b64.")
        texts.append(history[-1]["image_b64"])
        prompts.append(_prompt(history[-1].get("text")))
        wanted.append(names)
        metadata.append(one.get("metadata") or {})

    def reply(rewards: Rewards) -> dict[str, Any]:
        return {
            "results": [
                {n: {"score": rewards.parts[n][i]} for n in names if n not in rewards.errors[i]}
                for i, names in enumerate(wanted)
            ],
            "errors": [
                {name: sentence for name, sentence in errors.items() if name in names}
                for errors, names in zip(_sentences(rewards), wanted, strict=True)
            ],
        }

    return Call(
        Batch(_images(texts, "requests", max_bytes), prompts, metadata),
        reply,
        tuple(dict.fromkeys(name for names in wanted for name in names)),
        partial=True,
    )


class _Files(Sequence[bytes]):
    """The images of an array as files, each made when it is asked for, while others are scored."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        try:
            return encode_array(self._array[index])
        except InvalidImageError as error:
            refuse_wrong_array(error)
            raise


def _read_array(data: Body, start: int, max_bytes: int) -> Sequence[bytes]:
    """Read uint8 (or floating point in 0-1) pixels of several images from a .npy, from `start` on.

    The pixels are not copied.
    """
    file = BytesIO(data[start : start + _MAX_NPY_HEADER])
    try:
        formats: Any = np.lib.format  # has no types
        version = formats.read_magic(file)
        old = version == (1, 0)
        read = formats.read_array_header_1_0 if old else formats.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"it has objects of dtype {dtype}")
        pixels = memoryview(data)[start + file.tell() :]
        if math.prod(shape) * dtype.itemsize != len(pixels):
            raise ValueError(f"it has {len(pixels):,} bytes for the shape {shape}")
        array = np.frombuffer(pixels, dtype)
        array = array.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # NumPy's reader raises errors of several kinds
        raise MalformedRequestError(
            f"The array cannot be read ({error}). Send it as numpy.save writes it."
        ) from error
    if array.ndim != 4 or not array.size:
        raise WrongInputError(f"Got an array of shape {array.shape}.")
    if len(array) > _MAX_IMAGES:
        raise _too_many(len(array))
    if array.size > max_bytes:
        raise _too_large(max_bytes)
    files = _Files(array)
    if array.dtype != np.uint8:  # any of the others may have values out of range
        return list(files)
    files[0]  # if the first is an image, all are
    return files


def _sentences(rewards: Rewards) -> list[dict[str, str]]:
    return [{name: str(error) for name, error in one.items()} for one in rewards.errors]


def _read_json(body: Body) -> dict[str, Any]:
    try:
        fields = read_plain_json(body, _IMAGE_FIELDS)
    except PlainJsonError as error:
        raise MalformedRequestError(str(error)) from error
    return _object(fields)


def _read_pickle(body: Body) -> dict[str, Any]:
    try:
        return _object(read_plain_pickle(body))
    except PlainPickleError as error:
        raise MalformedRequestError(str(error)) from error


def _object(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise MalformedRequestError(
            "The request has no images. Expected an object with `images`, a list of at least one."
        )
    return fields


def _images(images: Any, field: str, max_bytes: int) -> list[bytes]:
    """Return the bytes of the files in a list of base64 strings, or of bytes from a pickle."""
    if not isinstance(images, list | tuple) or not images:
        raise WrongInputError(f"The request has no images in {field!r}.")
    if len(images) > _MAX_IMAGES:
        raise _too_many(len(images))
    encoded, size = [], 0
    for index, image in enumerate(images):
        size += len(image) if isinstance(image, bytes | str | memoryview) else 0
        if size > max_bytes:
            raise _too_large(max_bytes)
        if isinstance(image, bytes):
            data = image
        elif isinstance(image, str | memoryview):
            data = _decode(index, image)
        else:
            raise WrongInputError(f"Image {index} is of type {type(image).__name__}.")
        if data.startswith(_ARRAYS):
            raise WrongInputError(f"Image {index} is a file of numpy.save or torch.save.")
        encoded.append(data)
    return encoded


def _too_many(count: int) -> MalformedRequestError:
    return MalformedRequestError(
        f"The request has {count:,} images; expected at most {_MAX_IMAGES:,}. Send fewer at once."
    )


def _too_large(max_bytes: int) -> MalformedRequestError:
    return MalformedRequestError(
        f"The images have over {max_bytes:,} bytes together. Send fewer images at once."
    )


def _prompts(prompts: Any, count: int) -> Sequence[str]:
    """Return one prompt for each image, or none if there are none."""
    if prompts is None or prompts == []:
        return ()
    prompts = [prompts] * count if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list | tuple) or len(prompts) != count:
        raise MalformedRequestError(f"Expected a list of {count} prompts, one for each image.")
    return [_prompt(one) for one in prompts]


def _prompt(text: Any) -> str:
    """Return a prompt; nothing else is made text: nested lists of a pickle can take gigabytes."""
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > _MAX_PROMPT:
        raise MalformedRequestError(
            f"Got a prompt of type {type(text).__name__} that is not a text of at most "
            f"{_MAX_PROMPT:,} characters. Send a shorter text, or null for none."
        )
    return text


def _decode(index: int, image: str | memoryview) -> bytes:
    try:
        return pybase64.b64decode(image, validate=True)
    except ValueError:
        pass  # not the usual form
    image = image if isinstance(image, str) else str(image, "latin-1")
    text = image.partition(",")[2] if image[:5].lower() == "data:" else image
    text = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return pybase64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:  # characters beyond ASCII, too
        raise MalformedRequestError(
            f"Image {index} is not base64 ({error}). Expected the bytes of an image file in base64."
        ) from error
