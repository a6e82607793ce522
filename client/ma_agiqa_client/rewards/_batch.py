"""The rewards of several images: named parts, their weighted sum, and what failed."""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol, TypeAlias

from PIL import Image

from ma_agiqa_client._wire.images import check_sources
from ma_agiqa_client._wire.pictures import FORMATS, open_picture
from ma_agiqa_client.errors import (
    CannotAlignError,
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidPromptError,
    ServerError,
    ServerUnavailableError,
)
from ma_agiqa_client.score import Failure, Score
from ma_agiqa_client.scorer import Scorer

TIMEOUT_S = 300.0
"""Default seconds that an image may take: a trainer's batch may wait long in the server's queue."""

MOS = "mos"
"""Name of the reward that is the predicted mean opinion score, normalized to 0-1."""

ALIGNMENT = "alignment"
"""Name of the reward that is `Score.alignment`: how well the image shows its prompt, 0-1."""

SERVED = (MOS, ALIGNMENT)
"""The rewards that the served MA-AGIQA gives, both with one request for an image."""

EXPECTED = (
    "Expected one or more decoded pictures: image files such as PNG or JPEG, or RGB pixels, uint8 "
    "in 0-255 or floating point in 0-1, with 3 channels that are first or last; not latents, not "
    "videos, and not values in -1 to 1."
)
"""What every reward takes: the last sentence of each refusal of another kind of input."""

_FALLS_BACK = (
    InvalidImageError,
    InvalidPromptError,
    ServerUnavailableError,
    DeadlineExceededError,
    ServerError,
)
_ANY_SIDE = 2**16  # pixels: no picture is scaled down

Value: TypeAlias = float | ClientError

logger = logging.getLogger(__name__)


class WrongInputError(ValueError, TypeError):
    """The input is of another kind than pictures: a mistake in the trainer's setup.

    No fallback hides it.
    """

    def __init__(self, what: str) -> None:
        """Say what was given; what is expected is added."""
        super().__init__(f"{what} {EXPECTED}")


class RewardError(ClientError):
    """A function or server that was added failed in a way that no fallback should hide."""


@dataclass(frozen=True)
class Batch:
    """What rewards are computed from.

    Attributes:
        images: the files' bytes; or, if the only reward is MOS, what `Scorer.score_many` takes.
        prompts: one for each image, or none.
        metadata: one for each image, or none.
    """

    images: Any
    prompts: Sequence[str] = ()
    metadata: Sequence[Any] = ()

    @property
    def pictures(self) -> "Iterator[Image.Image | InvalidImageError]":
        """The images decoded as the server decodes them, as RGB, or why they cannot be.

        Each is decoded when it is asked for: all at once may take much memory.
        """
        return map(_decoded, self.images)

    @property
    def pixels(self) -> int:
        """The number of pixels that all images have together, by the headers of their files."""
        return sum(map(_declared, self.images))


class Part(Protocol):
    """One named reward."""

    def __call__(self, batch: Batch) -> Sequence[Value]:
        """Return a finite reward, or the reason why there is none, for each image."""


@dataclass(frozen=True)
class RewardSet:
    """The rewards that are computed, and how they are summed.

    Attributes:
        weights: of each reward by its name; 0 to compute and report it only.
        parts: how the rewards are computed, except for those of `SERVED`.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {MOS: 1.0})
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def summed(self) -> list[str]:
        """The names of the rewards that the sum consists of."""
        return [name for name, weight in self.weights.items() if weight]


@dataclass(frozen=True)
class Rewards:
    """The rewards of several images, in their order.

    Attributes:
        scores: the weighted sums, or the fallback; None for an image without either.
        parts: the named rewards; None where one failed.
        errors: for each image, why a reward failed, by its name.
        failed: indices, from 0, of the images that got the fallback.
        mos: predicted mean opinion scores; None for images without one.
        model: name of the model that answered; None if none did.
    """

    scores: tuple[float | None, ...]
    parts: Mapping[str, list[float | None]]
    errors: tuple[dict[str, ClientError], ...]
    failed: tuple[int, ...]
    mos: tuple[float | None, ...]
    model: str | None

    def error(self) -> ClientError | None:
        """Return the error of the first image without a score, or None if all have one."""
        for index, (score, errors) in enumerate(zip(self.scores, self.errors, strict=True)):
            if score is None:
                name, cause = next(iter(errors.items()))
                which = "" if name == MOS else f" {name!r}"
                error = type(cause)(f"Image {index} of the batch has no reward{which}. {cause}")
                error.request_id = cause.request_id
                error.__cause__ = cause
                return error
        return None


def reward_batch(
    scorer: Scorer, images: Iterable[Any], *, fallback: float | None = None
) -> tuple[list[float], Rewards]:
    """Return the MOS rewards of several images, each scored in its own request, and all facts.

    Args:
        scorer: the connection.
        images: as `Scorer.score_many` takes them: a list, or one array of 4 dimensions.
        fallback: reward of an image that cannot be scored; None raises an error instead.

    Raises:
        ClientError: an image has no score and there is no fallback for it; of the same class as
            the error of that image.
        WrongInputError: there are no images, or they are of another kind, such as latents.
    """
    rewards = evaluate(scorer, Batch(images), RewardSet(), fallback=fallback)
    if error := rewards.error():
        raise error
    return [score for score in rewards.scores if score is not None], rewards


def evaluate(
    scorer: Scorer,
    batch: Batch,
    rewards: RewardSet,
    *,
    names: Sequence[str] | None = None,
    fallback: float | None = None,
) -> Rewards:
    """Compute several rewards of several images, at the same time.

    Args:
        scorer: the connection.
        batch: the images.
        rewards: what to compute.
        names: the rewards to compute; by default all of the set.
        fallback: reward of an image for which a reward of the sum failed.

    Raises:
        WrongInputError: there are no images, or they are of another kind, such as latents.
    """
    asked = list(rewards.weights if names is None else dict.fromkeys(names))
    with ThreadPoolExecutor(len(asked) or 1, thread_name_prefix="part") as pool:
        added = [name for name in asked if name not in SERVED]
        pending = {name: pool.submit(rewards.parts[name], batch) for name in added}
        values: dict[str, list[Value]] = {}
        outcomes: list[Score | Failure] = []
        if ALIGNMENT in asked:
            outcomes, values[ALIGNMENT] = _compared(scorer, batch)
        elif MOS in asked:
            outcomes = _scored(scorer, batch.images)
        values |= {name: list(future.result()) for name, future in pending.items()}
    if MOS in asked:
        values[MOS] = [one.error or one.normalized for one in outcomes]
    parts = {
        name: [None if isinstance(one, ClientError) else one for one in values[name]]
        for name in asked
    }
    count = len(next(iter(values.values()), []))
    needed = [name for name in rewards.summed if name in parts]
    first = sorted(asked, key=lambda name: name not in needed)  # an error is told by its first one
    errors = tuple(
        {name: one for name in first if isinstance(one := values[name][index], ClientError)}
        for index in range(count)
    )
    sums = [_sum(rewards, parts, needed, index) for index in range(count)]
    failed = tuple(
        index
        for index, one in enumerate(sums)
        if one is None
        and all(
            may_fall_back(why, fallback) for name, why in errors[index].items() if name in needed
        )
    )
    _warn(errors, failed, fallback)
    return Rewards(
        scores=tuple(fallback if index in set(failed) else one for index, one in enumerate(sums)),
        parts=parts,
        errors=errors,
        failed=failed,
        mos=tuple(None if one.error else one.mos for one in outcomes) or (None,) * count,
        model=next((one.model for one in outcomes if one.model), None),
    )


def may_fall_back(error: ClientError, fallback: float | None) -> bool:
    """Return whether there is a fallback, and it may be used for this error."""
    return fallback is not None and isinstance(error, _FALLS_BACK)


def check_fallback(fallback: float | None) -> float | None:
    """Check the reward for images that cannot be scored.

    Raises:
        ValueError: it is not a finite number.
    """
    if fallback is not None and not math.isfinite(fallback):
        raise ValueError(f"fallback is {fallback}; expected a finite number, or None for an error.")
    return fallback


def default_urls() -> tuple[str, ...]:
    """Return the addresses in the environment variable MA_AGIQA_URL, or localhost:8001."""
    return tuple(os.environ.get("MA_AGIQA_URL", "").split()) or ("localhost:8001",)


def refuse_wrong_array(error: ClientError | None) -> None:
    """Refuse what no fallback should hide, because it is a mistake in the trainer's setup.

    Raises:
        WrongInputError: the error is that of an array of another dtype, shape or range.
    """
    if isinstance(error, InvalidImageError) and error.wrong_array:
        raise WrongInputError(str(error).partition(" Expected")[0]) from error


def _compared(scorer: Scorer, batch: Batch) -> tuple[list[Score | Failure], list[Value]]:
    """Score images and compare them with their prompts; return the outcomes and the alignments.

    An image whose prompt cannot be used is scored all the same.
    """
    given = batch.prompts or [""] * len(batch.images)
    prompts = [prompt if prompt.strip() else None for prompt in given]
    outcomes = _scored(scorer, batch.images, prompts)
    missing: ClientError = (
        InvalidPromptError("The image has an empty prompt, and so no alignment. Send its text.")
        if batch.prompts
        else RewardError(
            f"The reward {ALIGNMENT!r} needs prompts, and the request has none. Send one for each "
            "image."
        )
    )
    alignments: list[Value] = [
        one.error or (missing if one.alignment is None else one.alignment) for one in outcomes
    ]
    unusable = (InvalidPromptError, CannotAlignError)
    again = [place for place, one in enumerate(outcomes) if isinstance(one.error, unusable)]
    if again:
        images = [batch.images[place] for place in again]
        for place, one in zip(again, _scored(scorer, images), strict=True):
            outcomes[place] = one
    return outcomes, alignments


def _scored(
    scorer: Scorer, images: Any, prompts: Sequence[str | None] | None = None
) -> list[Score | Failure]:
    try:
        several = check_sources(images)
    except TypeError as error:  # one image, or an array of other dimensions
        raise WrongInputError(str(error)) from error
    outcomes = list[Score | Failure]()
    for outcome in scorer.score_many(several, prompts=prompts):
        refuse_wrong_array(outcome.error)
        outcomes.append(outcome)
    if not outcomes:
        raise WrongInputError("Got 0 images.")
    return outcomes


def _decoded(file: bytes) -> "Image.Image | InvalidImageError":
    try:
        return open_picture(BytesIO(file), _ANY_SIDE, quickly=False).convert("RGB")
    except InvalidImageError as error:
        return error


def _declared(file: bytes) -> int:
    try:
        with Image.open(BytesIO(file), formats=FORMATS) as opened:
            pixels: int = opened.width * opened.height
            return pixels
    except Exception:  # Pillow's readers raise errors of every kind; it is not decoded, either
        return 0


def _sum(
    rewards: RewardSet, parts: Mapping[str, list[float | None]], needed: list[str], index: int
) -> float | None:
    """Return the weighted sum of one image, or None if one of its rewards failed."""
    total = 0.0
    for name in needed:
        value = parts[name][index]
        if value is None:
            return None
        total += rewards.weights[name] * value
    return total


def _warn(
    errors: tuple[dict[str, ClientError], ...], failed: tuple[int, ...], fallback: float | None
) -> None:
    if failed:
        logger.warning(
            "%d of %d images get the fallback reward %s. The first error is: %s",
            len(failed),
            len(errors),
            fallback,
            next(iter(errors[failed[0]].values())),
        )
