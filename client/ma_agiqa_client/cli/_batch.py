"""One run over many images: earlier scores first, then new ones, in the order of the listing.

Only the images in flight are in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._find import Found
from ma_agiqa_client.cli._journal import Journal, Stamp, stamp
from ma_agiqa_client.cli.rows import Row
from ma_agiqa_client.errors import (
    ClientError,
    InvalidImageError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.score import Failure, Score
from ma_agiqa_client.scorer import Scorer

_MIN_TO_STOP = 4
_UNLOADED = "has no available versions"  # Triton's words for a model that it knows, but unloaded


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
    """

    scored: int = 0
    resumed: int = 0
    bad: int = 0
    unserved: int = 0
    not_tried: int = 0
    unloaded: int = 0


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
            on_failure: called with the path and the reason for each image that failed.
        """
        self._scorer = scorer
        self._card = card
        self._listing = listing
        self._concurrency = concurrency
        self._maps = maps
        self._journal = journal
        self._on_failure = on_failure
        self._waiting: deque[tuple[Found, Stamp | None]] = deque()
        self.counts = _Counts()

    def rows(self) -> Iterator[Row]:
        """Yield a row for each image of the listing.

        Raises:
            WrongModelError: the model changed during the run, or is no longer served.
            OSError: the journal cannot be written.
        """
        yield from self._earlier_rows()
        listing = iter(self._listing)
        yield from self._new_rows(listing)
        yield from self._rows_not_tried(listing)

    def _earlier_rows(self) -> Iterator[Row]:
        if self._journal is None:
            return
        for found in self._listing:
            row = None if found.problem else self._journal.find(found.path)
            if row:
                self.counts.scored += 1
                self.counts.resumed += 1
                yield Row(**{**vars(row), "image": found.path})

    def _new_rows(self, listing: Iterator[Found]) -> Iterator[Row]:
        """Score until the end of the listing, or until the server is no longer available."""
        unavailable = 0
        outcomes = self._scorer.score_many(
            self._to_send(listing), max_in_flight=self._concurrency, maps=self._maps
        )
        with closing(outcomes):
            for outcome in outcomes:
                yield from self._problems()
                yield self._finish(outcome)
                gone = isinstance(outcome.error, ServerUnavailableError)
                unavailable = unavailable + 1 if gone else 0
                if unavailable >= max(self._concurrency, _MIN_TO_STOP):
                    return
        yield from self._problems()

    def _to_send(self, listing: Iterator[Found]) -> Iterator[str]:
        for found in listing:
            if found.problem:
                self._waiting.append((found, None))
            elif self._journal is None:
                self._waiting.append((found, None))
                yield found.path
            elif not self._journal.find(found.path):
                self._waiting.append((found, stamp(found.path)))
                yield found.path

    def _problems(self) -> Iterator[Row]:
        """Yield rows for the next folders that could not be read."""
        while self._waiting and self._waiting[0][0].problem:
            found, _ = self._waiting.popleft()
            yield self._fail(found.path, InvalidImageError(found.problem))

    def _finish(self, outcome: Score | Failure) -> Row:
        found, before = self._waiting.popleft()
        if isinstance(outcome.error, WrongModelError):
            raise WrongModelError(
                f"The run cannot continue with {self._card.name}, the model it began with: "
                f"{outcome.error} Run it again: scores kept by --resume are not lost."
            ) from outcome.error
        if outcome.error:
            return self._fail(found.path, outcome.error)
        row = Row.from_score(found.path, outcome)
        if row.model != self._card.name:
            raise WrongModelError(
                f"The server has changed from the model {self._card.name} to {row.model} during "
                "the run. Scores of two models cannot be compared: run it again."
            )
        self.counts.scored += 1
        if self._journal is not None and before:
            self._journal.add(row, before)
        return row

    def _fail(self, image: str, error: ClientError) -> Row:
        if isinstance(error, InvalidImageError):
            self.counts.bad += 1
        else:
            self.counts.unserved += 1
            self.counts.unloaded += _UNLOADED in str(error)
        self._on_failure(image, error)
        return Row(image, error=str(error))

    def _rows_not_tried(self, listing: Iterator[Found]) -> Iterator[Row]:
        """Yield the images in flight when the server went away, then the rest, path by path."""
        yield from self._skip()
        for _ in self._to_send(listing):
            yield from self._skip()
        yield from self._skip()

    def _skip(self) -> Iterator[Row]:
        while self._waiting:
            yield from self._problems()
            if self._waiting:
                found, _ = self._waiting.popleft()
                self.counts.unserved += 1
                self.counts.not_tried += 1
                yield Row(found.path, error="Not tried: the server went away.")
