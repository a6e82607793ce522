"""Whether a server scores: liveness by a real inference.

tritonserver says that it is healthy when it is not: a python stub that has died is never started
again (2.51), and a network can hang; both leave /v2/health/ready at 200. Being slow is no fault: a
test image waits in the same queue as every other image, and may be refused while there are many.
So a server is alive if the test image gets a score, or if other images get theirs meanwhile.
"""

import math
import time
from dataclasses import dataclass

from embedded.http import BusyError, RefusedError, TritonHttp

ENSEMBLE = "ma_agiqa"
"""What the names of the ensembles that clients ask for begin with."""
EMBEDDER = "mplug_owl2"

SELF_TEST_TIMEOUT_S = 300.0
"""Generous: the first inference of a large model compiles and pages in its weights."""
STATISTICS_TIMEOUT_S = 1.5
POLL_S = 0.2


class NotScoringError(Exception):
    """The server does not score; the message says what it does instead, without a full stop."""


class NoAnswerError(NotScoringError):
    """No image got a score within the time of a check: the server hangs, or needs more time."""


@dataclass(frozen=True)
class ServedModel:
    """The parameters of the ensemble's configuration that every start should show.

    Attributes:
        name: name of the model, for people.
        note: what users of its scores should know; may be empty.
    """

    name: str
    note: str


def self_test(server: TritonHttp) -> ServedModel:
    """Score a test image, so that "ready" means that images are scored; return what is served.

    Raises:
        NotScoringError: the ensemble is missing, fails, or returns an empty or non-finite score.
    """
    try:
        _score(server, ENSEMBLE, SELF_TEST_TIMEOUT_S, SELF_TEST_TIMEOUT_S)
        for name in sorted(server.states(SELF_TEST_TIMEOUT_S)):
            if name.startswith(ENSEMBLE):
                _check_binding(server, name)
        text = _parameters(server, ENSEMBLE)
    except RefusedError as error:
        raise NotScoringError(f"scoring a test image failed: {_phrase(error)}") from error
    return ServedModel(name=text.get("name", ENSEMBLE), note=text.get("note", ""))


def _check_binding(server: TritonHttp, ensemble: str) -> None:
    """Refuse a scorer that was exported for another embedder than is served."""
    bound = {
        name.removeprefix("embedder_"): value
        for name, value in _parameters(server, ensemble).items()
        if name.startswith("embedder_") and value
    }
    served = _parameters(server, EMBEDDER) if bound else {}
    for name, value in bound.items():
        if served.get(name, value) != value:
            raise NotScoringError(
                f"{ensemble} was exported for another embedder than {EMBEDDER} is: its {name} is "
                f"{served[name]}, not {value}; export the checkpoint of {ensemble} again"
            )


def _parameters(server: TritonHttp, model: str) -> dict[str, str]:
    found = server.get(f"/v2/models/{model}/config", SELF_TEST_TIMEOUT_S)["parameters"]
    return {name: value["string_value"] for name, value in found.items()}


class Health:
    """Checks one server, and knows how many images it had scored at the last check."""

    def __init__(self, server: TritonHttp):
        self._server = server
        self._scored: int | None = None
        self._own = 0  # test images that were scored

    def check(self, timeout_s: float, deadline_s: float) -> list[float]:
        """Score a test image with every ensemble that clients may ask for.

        Args:
            timeout_s: how long the check may take.
            deadline_s: time after which the server may drop the test image.

        Returns:
            The scores. Empty if the server is too busy for the test image, but has scored other
            images since the last check, or during this one.

        Raises:
            NoAnswerError: no image got a score in time.
            NotScoringError: the server fails.
        """
        end = time.monotonic() + timeout_s - STATISTICS_TIMEOUT_S
        ensembles, scored = self._statistics()
        before, self._scored = scored if self._scored is None else self._scored, scored
        scores = []
        for name in ensembles:
            try:
                left_s = max(0.1, end - time.monotonic())
                scores += _score(self._server, name, left_s, deadline_s)
                self._own += 1
            except BusyError as error:
                if not self._others_are_scored(before, end):
                    raise NoAnswerError(f"{name} gives no score: {_phrase(error)}") from error
                return []
            except RefusedError as error:
                raise NotScoringError(f"{name} fails: {_phrase(error)}") from error
        return scores

    def _statistics(self) -> tuple[list[str], int | None]:
        """The ensembles, and how many requests of others they answered; None if not known."""
        try:
            stats = self._server.get("/v2/models/stats", STATISTICS_TIMEOUT_S)["model_stats"]
        except RefusedError:
            return [ENSEMBLE], None
        counts = {
            model["name"]: model["inference_stats"]["success"].get("count", 0)
            for model in stats
            if model["name"].startswith(ENSEMBLE)
        }
        return sorted(counts) or [ENSEMBLE], sum(counts.values()) - self._own

    def _others_are_scored(self, before: int | None, end: float) -> bool:
        """Whether others got more answers than `before`; asks until `end`, at least once."""
        while before is not None:
            _, now = self._statistics()
            if now is not None and now > before:
                self._scored = now
                return True
            if time.monotonic() >= end:
                break
            time.sleep(POLL_S)
        return False


def _score(server: TritonHttp, ensemble: str, timeout_s: float, deadline_s: float) -> list[float]:
    scores = server.score_test_image(ensemble, timeout_s, deadline_s)
    if not scores or not all(map(math.isfinite, scores)):
        raise NotScoringError(
            f"the SCORE of a test image is {scores or 'empty'}, expected a finite number: export "
            "the model again with `python export/to_triton.py`"
        )
    return scores


def _phrase(error: Exception) -> str:
    return str(error).rstrip(".")
