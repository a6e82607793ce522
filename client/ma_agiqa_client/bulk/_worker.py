"""A worker of a bulk job: it reads a part, scores its images and writes the part's file."""

import errno
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ma_agiqa_client._wire.images import Encoder
from ma_agiqa_client.bulk._columns import ENDS, GATE, NUMBERS, identification, image_of
from ma_agiqa_client.bulk._local import LocalModels, LocalScorer
from ma_agiqa_client.bulk._parts import Part, failed_for_now
from ma_agiqa_client.bulk._store import (
    JobError,
    Store,
    StoreError,
    patient,
    read,
    with_options,
)
from ma_agiqa_client.bulk._tars import KEY
from ma_agiqa_client.connection import Tls
from ma_agiqa_client.errors import (
    AuthenticationError,
    ClientError,
    InvalidImageError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.retry import Retry
from ma_agiqa_client.score import Failure, Score
from ma_agiqa_client.scorer import Scorer

_PASSES = 3
"""How often an image is sent if it fails because of the server."""

_NO_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a path that another try does not change; None is a pipe or device."""

_FATAL = (ServerUnavailableError, AuthenticationError, WrongModelError)
"""Errors that all other images would get, too: the part is not written, but left for a next run."""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of every worker; the fields are named after the options of the command line.

    With `models`, the worker computes by itself: there is no server, and `url` is empty.
    """

    url: tuple[str, ...]
    column: str
    output: str
    checkpoint_sha256: str | None
    keep: tuple[str, ...] = ()
    tls: Tls | None = None
    token: str | None = field(default=None, repr=False)
    in_flight: int = 64
    version: int | None = None
    timeout_s: float = 300.0
    outage_s: float = 600.0
    retry_failed: bool = False
    models: LocalModels | None = None


class PartScorer:
    """An actor of Ray Data; each call scores one part."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Prepare; the first part opens the connection, or loads the models."""
        self._settings = settings
        self._store = Store(settings.output)

    @cached_property
    def _scorer(self) -> Scorer | LocalScorer:
        settings = self._settings
        if settings.models is not None:
            return LocalScorer(settings.models)
        return Scorer(
            settings.url,
            version=settings.version,
            traffic_class="bulk",
            timeout_s=settings.timeout_s + settings.outage_s,  # an outage uses up no image's time
            tls=settings.tls,
            token=settings.token,
            retry=Retry(budget_s=settings.outage_s, connect_budget_s=settings.outage_s),
        )

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[int]]:
        """Score the part in a batch of one.

        Raises:
            ClientError: the servers are not available; nothing is written.
            JobError: the part cannot be read or written.
        """
        part = Part(
            str(batch["name"][0]),
            str(batch["file"][0]),
            int(batch["start"][0]),
            int(batch["rows"][0]),
        )
        earlier = self._store.table(part.name) if self._store.has(part.name) else None
        if earlier is None:
            table = self._scored(part)
            self._store.write_table(part.name, table)
        elif self._settings.retry_failed and (failed := failed_for_now(earlier)):
            again = self._scored(part, failed)
            kept = np.ones(len(earlier), bool)
            kept[failed] = False
            both = [earlier.filter(pa.array(kept)), again.select(earlier.column_names)]
            order = np.argsort([*np.flatnonzero(kept), *failed])
            self._store.write_table(part.name, pa.concat_tables(both).take(order))
        return {"rows": [part.rows or len(table if earlier is None else earlier)]}

    def _scored(self, part: Part, rows: list[int] | None = None) -> Any:
        """Score some rows of a part, or all; return the table of their results."""
        self._check_model()
        table = part.read((self._settings.column, *self._settings.keep))
        if rows is not None:  # not `take`: the images together may not fit into one array
            table = pa.concat_tables([table.slice(row, 1) for row in rows])
        images = [image_of(value) for value in table[self._settings.column].to_pylist()]
        outcomes = self._score_all(
            [with_options(i, part.file) if isinstance(i, str) and "://" in i else i for i in images]
        )
        self._check_model()  # a part has scores of one model
        return self._result(table, outcomes)

    def _check_model(self) -> None:
        served = self._scorer.model().checkpoint_sha256
        if served != self._settings.checkpoint_sha256:
            raise WrongModelError(
                f"The model is {served} here, and {self._settings.checkpoint_sha256} where the "
                "job began: it has changed during the job, or differs between machines."
            )

    def _score_all(self, images: list[Any]) -> list[Score | Failure]:
        """Return one score or failure per image, in order."""
        outcomes: dict[int, Score | Failure] = {}
        waiting = list(range(len(images)))
        for _ in range(_PASSES):
            outcomes |= zip(waiting, self._score([images[i] for i in waiting]), strict=True)
            waiting = [i for i in waiting if _may_succeed(outcomes[i])]
            if not waiting:
                break
        return [outcomes[index] for index in range(len(images))]

    def _score(self, images: list[Any]) -> Iterator[Score | Failure]:
        failures: dict[int, ClientError] = {}
        sources = self._sources(images, failures)
        outcomes = self._scorer.score_many(sources, max_in_flight=self._settings.in_flight)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome.error, _FATAL):
                raise outcome.error
            unread = failures.get(index)
            yield Failure(images[index], unread, model=outcome.model) if unread else outcome

    def _sources(self, images: list[Any], failures: dict[int, ClientError]) -> Iterator[bytes]:
        """Yield the files, which are read ahead, several at a time."""
        ahead: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(self._settings.in_flight) as pool:
            position = 0
            for index in range(len(images)):
                while position < len(images) and len(ahead) < self._settings.in_flight:
                    ahead.append(pool.submit(_source, images[position]))
                    position += 1
                try:
                    yield ahead.popleft().result()
                except (InvalidImageError, StoreError) as error:
                    failures[index] = error
                    yield b""  # a placeholder; the error is in `failures`

    def _result(self, table: Any, outcomes: list[Score | Failure]) -> Any:
        """Build the table of results: one row per image, with its score or its error."""
        column, keep = self._settings.column, self._settings.keep
        shown = {column: identification(table[column])}
        shown |= {name: table[name] for name in (KEY, *keep) if name in table.column_names}
        data = {name: values for name, values in shown.items() if values is not None}
        ends = [getattr(one, "interval", None) for one in outcomes]
        gates = [None if one.error else one.gate for one in outcomes]
        for prefix, owners, names in (
            ("", outcomes, NUMBERS),
            ("interval_", ends, ENDS),
            ("gate_", gates, GATE),
        ):
            for name in names:
                numbers = [getattr(owner, name, None) for owner in owners]
                data[f"{prefix}{name}"] = pa.array(numbers, pa.float64())
        errors = [one.error for one in outcomes]
        data["model"] = pa.array([one.model for one in outcomes], pa.string())
        data["error"] = pa.array([e and str(e) for e in errors], pa.string())
        data["error_kind"] = pa.array([e and type(e).__name__ for e in errors], pa.string())
        return pa.table(data)


def cause(error: BaseException) -> Exception:
    """Find the error of a worker in the exception that Ray raises."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ClientError | JobError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return JobError(f"The job failed: {error}")


def _may_succeed(outcome: Score | Failure) -> bool:
    """Return whether the image failed in a way that another try may change at once."""
    lasting = (InvalidImageError, StoreError)  # the store was asked several times
    return outcome.error is not None and not isinstance(outcome.error, lasting)


def _source(image: str | bytes | None) -> bytes:
    """Return the file of a value of the column.

    Raises:
        InvalidImageError: the value is null, or there is no such file or object.
        StoreError: the store does not give the object.
    """
    if image is None:
        raise InvalidImageError("The row has no image: the column is null there.")
    if isinstance(image, bytes):
        return Encoder().encode(image)
    try:
        return read(image) if "://" in image else _file(image)
    except (FileNotFoundError, ValueError, pa.ArrowInvalid) as error:
        raise InvalidImageError(f"The object {image} cannot be read: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"The store does not give {image}: {error}. Run the job again with --retry-failed."
        ) from error


@patient
def _file(path: str) -> bytes:
    """Read a file.

    Raises:
        InvalidImageError: there is no such file, or it is none that can be sent.
        OSError: the disk does not give it for now.
    """
    try:
        return Encoder().encode(path)
    except InvalidImageError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno not in _NO_FILE:
            raise cause from None
        raise
