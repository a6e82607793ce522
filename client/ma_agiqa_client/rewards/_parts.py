"""Rewards that stand next to MOS: measures of pixels, a user's function, another HTTP server."""

import http.client
import importlib
import json
import math
import pickle
import reprlib
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from ma_agiqa_client.errors import (
    ClientError,
    InvalidImageError,
    ServerError,
    ServerUnavailableError,
)
from ma_agiqa_client.retry import Outage, Retry
from ma_agiqa_client.rewards._batch import (
    MOS,
    SERVED,
    TIMEOUT_S,
    Batch,
    Part,
    RewardError,
    RewardSet,
    Value,
)
from ma_agiqa_client.rewards._measures import MEASURES
from ma_agiqa_client.rewards._plain_pickle import PlainPickleError, read_plain_pickle

_MAX_REPLY_BYTES = 64 * 2**20
_MAX_PIXELS = 2**30  # of the images that a function gets: 1024 images of 1024 x 1024
_RETRIED = (408, 429, 500, 502, 503, 504)


def reward_set(weights: Sequence[str], added: Sequence[str]) -> RewardSet:
    """Make the rewards that a command line asks for.

    Args:
        weights: NAME or NAME=WEIGHT of the rewards to sum; only MOS by default.
        added: NAME=MODULE:FUNCTION or NAME=URL of further rewards; their weight is 1 unless
            `weights` has another.

    Raises:
        ValueError: a reward is not known or given twice, a weight is no number, or a function
            cannot be imported.
    """
    parts: dict[str, Part] = {name: _Measure(measure) for name, measure in MEASURES.items()}
    others = dict[str, float]()
    for text in added:
        name, _, where = text.partition("=")
        if not name or not where or name in parts or name in SERVED:
            raise ValueError(f"{text!r} is not NAME=MODULE:FUNCTION or NAME=URL with a new name.")
        parts[name] = _Remote(name, where) if "://" in where else _Function(name, _imported(where))
        others[name] = 1.0
    chosen = dict[str, float]()
    for text in weights:
        name, given, weight = text.partition("=")
        if name not in SERVED and name not in parts:
            known = ", ".join((*SERVED, *parts))
            raise ValueError(f"There is no reward {name!r}; known are {known}.")
        if name in chosen:
            raise ValueError(f"The reward {name!r} is given twice; expected one weight for each.")
        chosen[name] = _number(weight, text) if given else 1.0
    every = {**({} if chosen else {MOS: 1.0}), **others, **chosen}
    if not any(every.values()):
        raise ValueError("The weights of all rewards are 0; expected one that is not.")
    return RewardSet(every, {name: parts[name] for name in every if name not in SERVED})


@dataclass(frozen=True)
class _Measure:
    function: Callable[[Image.Image], float]

    def __call__(self, batch: Batch) -> list[Value]:
        return [
            one if isinstance(one, ClientError) else self.function(one) for one in batch.pictures
        ]


@dataclass(frozen=True)
class _Function:
    """`fn(images, prompts, metadata)` of a user: Pillow images in, rewards or (rewards, info) out.

    It gets only the images that can be decoded, and may change them.
    """

    name: str
    function: Callable[..., Any]

    def __call__(self, batch: Batch) -> list[Value]:
        if (pixels := batch.pixels) > _MAX_PIXELS:
            reason = (
                f"The reward {self.name!r} gets all images at once: {pixels:,} pixels, at most "
                f"{_MAX_PIXELS:,}. Send fewer images in a request."
            )
            return [RewardError(reason)] * len(batch.images)
        pictures = list(batch.pictures)
        good = [i for i, one in enumerate(pictures) if not isinstance(one, ClientError)]
        images = [pictures[index] for index in good]
        prompts = [batch.prompts[index] if batch.prompts else "" for index in good]
        metadata = [batch.metadata[index] if batch.metadata else {} for index in good]
        try:
            given = self.function(images, prompts, metadata) if images else []
            rewards = given[0] if isinstance(given, tuple) and len(given) == 2 else given
            values = iter(_checked(self.name, [float(one) for one in rewards], len(good)))
        except RewardError as error:
            values = iter([error] * len(good))
        except Exception as error:  # a user's function may raise anything
            reason = f"The function of the reward {self.name!r} raised {error!r}. Correct it."
            values = iter([RewardError(reason)] * len(good))
        return [one if isinstance(one, ClientError) else next(values) for one in pictures]


@dataclass(frozen=True)
class _Remote:
    """Another reward server, in the protocol that its path names."""

    name: str
    url: str
    outage: Outage = field(default_factory=lambda: Outage(Retry()))

    def __call__(self, batch: Batch) -> Sequence[Value]:
        count = len(batch.images)
        try:
            return _checked(self.name, self._ask(batch), count)
        except ClientError as error:
            return [error] * count

    def _ask(self, batch: Batch) -> list[Any]:
        url, _, fragment = self.url.partition("#")
        path = urlsplit(url).path.rstrip("/").rpartition("/")[2]
        prompts = list(batch.prompts) or [""] * len(batch.images)
        texts = [b64encode(image).decode() for image in batch.images]
        if path == "compute":
            fields = self._json(url, {"prompt": prompts, "image": texts})
            return _list(self.name, fields, "rewards")
        if path == "get_reward":
            fields = self._json(url, {"query": texts, "prompts": prompts, "labels": prompts})
            return _list(self.name, fields, "rewards")
        if path == "score":
            asked = fragment or self.name
            requests = [
                {"history": [{"text": prompt, "image_b64": text}], "required_rewards": [asked]}
                for prompt, text in zip(prompts, texts, strict=True)
            ]
            fields = self._json(url, {"requests": requests})
            results = _list(self.name, fields, "results")
            errors = [*(fields.get("errors") or []), *({},) * len(results)]
            return [self._first(*both, asked) for both in zip(results, errors, strict=False)]
        images = [bytes(image) for image in batch.images]
        body = pickle.dumps({"images": images, "prompts": prompts, "metadata": {}}, 4)
        fields = self._fields(self._post(url, body, "application/octet-stream"))
        return _list(self.name, fields, "scores" if "scores" in fields else "outputs")

    def _first(self, result: Any, errors: Any, asked: str) -> Any:
        """Return the first metric of a reward, or why there is none."""
        try:
            return next(iter(result[asked].values()))
        except (KeyError, TypeError, AttributeError, StopIteration):
            reason = errors.get(asked, "it is missing") if isinstance(errors, dict) else errors
            return InvalidImageError(
                f"The reward {self.name!r} of {self.url} failed: {_shown(reason)}"
            )

    def _json(self, url: str, fields: dict[str, Any]) -> dict[str, Any]:
        return self._fields(self._post(url, json.dumps(fields).encode(), "application/json"))

    def _fields(self, body: bytes) -> dict[str, Any]:
        try:
            fields = read_plain_pickle(body) if body[:1] == b"\x80" else json.loads(body)
        except (ValueError, RecursionError, PlainPickleError) as error:
            raise RewardError(f"The reply of {self.url} cannot be read: {error}") from error
        if not isinstance(fields, dict) or fields.get("error"):
            said = fields["error"] if isinstance(fields, dict) else fields
            raise RewardError(f"The reward server {self.url} answered: {_shown(said)}")
        return fields

    def _post(self, url: str, body: bytes, content_type: str) -> bytes:
        """Send a request again during an outage, as a scorer does."""
        request = urllib.request.Request(url, body, {"Content-Type": content_type})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline, tries = time.monotonic() + TIMEOUT_S, 0
        while True:
            tries += 1
            left_s = max(deadline - time.monotonic(), 0.1)
            try:
                with opener.open(request, timeout=left_s) as reply:
                    self.outage.ended()
                    data: bytes = reply.read(_MAX_REPLY_BYTES)
                    return data
            except urllib.error.HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                reason = f"The reward server {self.url} answered {error.code}: {said}"
                if error.code not in _RETRIED:
                    raise RewardError(reason) from error
                failure: ClientError = ServerError(reason)
            except (OSError, http.client.HTTPException) as error:
                failure = ServerUnavailableError(f"No answer from {self.url}: {error!r}")
            delay_s = self.outage.delay_s(tries, left_s)
            if delay_s is None:
                raise failure
            time.sleep(delay_s)


def _checked(name: str, values: Sequence[Any], count: int) -> list[Value]:
    """Return the rewards of a function or server, each finite or an error.

    Raises:
        RewardError: there are more or fewer than images.
    """
    if len(values) != count:
        raise RewardError(
            f"The reward {name!r} gave {len(values)} rewards for {count} images; expected as many."
        )
    return [
        one
        if isinstance(one, ClientError)
        else float(one)
        if isinstance(one, int | float) and abs(one) <= sys.float_info.max
        else InvalidImageError(f"The reward {name!r} gave {_shown(one)}; expected a finite number.")
        for one in values
    ]


def _shown(value: Any) -> str:
    """Return the beginning of a value: lists of a pickle can share their parts without end."""
    return (value if isinstance(value, str) else reprlib.repr(value))[:500]


def _list(name: str, fields: dict[str, Any], key: str) -> list[Any]:
    value = fields.get(key)
    if not isinstance(value, list):
        raise RewardError(f"The server of the reward {name!r} gave no list {key!r}.")
    return value


def _imported(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where!r} cannot be imported ({error}). Give MODULE:FUNCTION."
        ) from error
    if not callable(function):
        raise ValueError(f"{where!r} is not a function.")
    return function  # type: ignore[no-any-return]


def _number(text: str, whole: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"{whole!r} has no weight; expected NAME=WEIGHT with a finite number.")
    return weight
