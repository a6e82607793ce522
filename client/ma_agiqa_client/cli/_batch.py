"""One run over many images: earlier scores first, then new ones, in the order of the listing.

Only the images in flight are in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import tee

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._find import Found
from ma_agiqa_client.cli._journal import Journal, Stamp, stamp
from ma_agiqa_client.cli._prompts import PromptOf
from ma_agiqa_client.cli.rows import Row
from ma_agiqa_client.errors import (
    CannotAlignError,
    ClientError,
    InvalidImageError,
    InvalidPromptError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.score import Failure, Score
from ma_agiqa_client.scorer import Scorer

_MIN_TO_STOP = 4
_UNLOADED = "has no available versions"  # Triton's words for a model that it knows, but unloaded


@dataclass(frozen=True)
class _Image(Found):
    """An image that is sent.

    Attributes:
        stamp: that of its file before it is read.
        prompt: the text that it is compared with; None for the score alone.
    """

    stamp: Stamp | None = None
    prompt: str | None = None


@dataclass
class _Counts:
    """Numbers of images in a run.

    Attributes:
        scored: images with a score, from this run or an earlier one.
        resumed: those of them from an earlier run.
        bad: images that failed because of the image.
        unserved: images that failed because of the server, including those not tried.
        not_tried: those of them that were skipped after the server went away.
        unloaded: those of them for which the server had unloaded the model.
        unprompted: images without a prompt.
    """

    scored: int = 0
    resumed: int = 0
    bad: int = 0
    unserved: int = 0
    not_tried: int = 0
    unloaded: int = 0
    unprompted: int = 0


class Batch:
    """Scores the images of a listing and counts the results."""

    def __init__(
        self,
        scorer: Scorer,
        card: ModelCard,
        listing: Iterable[Found],
        *,
        concurrency: int,
        maps: bool = False,
        journal: Journal | None = None,
        prompt_of: PromptOf | None = None,
        on_failure: Callable[[str, ClientError], None],
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            scorer: the connection.
            card: the model served at the start of the run.
            listing: the images; iterated twice if there is a journal.
            concurrency: maximum number of images in flight. If this many in a row (at least 4) find
                no server, the remaining images are not tried.
            maps: whether to ask for the patch maps.
            journal: finished scores of earlier runs; new scores are added to it.
            prompt_of: finds the prompt of an image; None scores images alone.
            on_failure: called with the path and the reason for each image that failed.
        """
        self._scorer = scorer
        self._card = card
        self._listing = listing
        self._concurrency = concurrency
        self._maps = maps
        self._journal = journal
        self._prompt_of = prompt_of or (lambda image: None)
        self._on_failure = on_failure
        self._unavailable = 0
        self.counts = _Counts()

    def rows(self) -> Iterator[Row]:
        """Yield a row for each image of the listing.

        Raises:
            WrongModelError: the model changed during the run, or is no longer served.
            CannotAlignError: the server does not compare images with prompts.
            OSError: the journal cannot be written.
        """
        yield from self._earlier_rows()
        listing, problems = iter(self._listing), list[Found]()
        images, again = tee(self._to_send(listing, problems))
        outcomes = self._scorer.score_many(
            images,
            prompts=(image.prompt for image in again),
            max_in_flight=self._concurrency,
            maps=self._maps,
        )
        with closing(outcomes):
            for outcome in outcomes:
                yield self._finish(outcome)
        for image in self._to_send(listing, problems, anyway=True):
            self.counts.unserved += 1
            self.counts.not_tried += 1
            yield Row(image.path, error="Not tried: the server went away.")
        for found in problems:
            yield self._fail(found.path, InvalidImageError(found.problem))

    def _earlier_rows(self) -> Iterator[Row]:
        for found in self._listing if self._journal else ():
            row = self._earlier(found)
            if row:
                self.counts.scored += 1
                self.counts.resumed += 1
                yield replace(row, image=found.path)

    def _earlier(self, found: Found) -> Row | None:
        if self._journal is None or found.problem:
            return None
        return self._journal.find(found.path, self._prompt_of(found.path))

    def _to_send(
        self, listing: Iterator[Found], problems: list[Found], *, anyway: bool = False
    ) -> Iterator[_Image]:
        """Yield what has no score yet, until the server is gone, unless `anyway`."""
        while anyway or self._unavailable < max(self._concurrency, _MIN_TO_STOP):
            found = next(listing, None)
            if found is None:
                return
            if found.problem:
                problems.append(found)
            elif not self._earlier(found):
                prompt = self._prompt_of(found.path)
                self.counts.unprompted += prompt is None
                now = stamp(found.path) if self._journal else None
                yield _Image(found.path, stamp=now, prompt=prompt)

    def _finish(self, outcome: Score | Failure) -> Row:
        image: _Image = outcome.source
        gone = isinstance(outcome.error, ServerUnavailableError)
        self._unavailable = self._unavailable + 1 if gone else 0
        if isinstance(outcome.error, WrongModelError):
            raise WrongModelError(
                f"The run cannot continue with {self._card.name}, the model it began with: "
                f"{outcome.error} Run it again: scores kept by --resume are not lost."
            ) from outcome.error
        if isinstance(outcome.error, CannotAlignError):
            raise outcome.error
        if outcome.error:
            return self._fail(image.path, outcome.error)
        check_model(outcome, self._card)
        row = Row.from_score(image.path, outcome, image.prompt)
        self.counts.scored += 1
        if self._journal is not None and image.stamp:
            self._journal.add(row, image.stamp)
        return row

    def _fail(self, image: str, error: ClientError) -> Row:
        if isinstance(error, InvalidImageError | InvalidPromptError):
            self.counts.bad += 1
        else:
            self.counts.unserved += 1
            self.counts.unloaded += _UNLOADED in str(error)
        self._on_failure(image, error)
        return Row(image, error=str(error))


def check_model(score: Score, card: ModelCard) -> None:
    """Check that a score is of the model with which the run began.

    Raises:
        WrongModelError: it is of a model with another name, or of other weights.
    """
    if (score.model, score.checkpoint_sha256) != (card.name, card.checkpoint_sha256):
        raise WrongModelError(
            f"The server has changed from the model {card.name} ({card.checkpoint_sha256[:12]}) to "
            f"{score.model} ({score.checkpoint_sha256[:12]}) during the run. Scores of two models "
            "cannot be compared: run it again."
        )
