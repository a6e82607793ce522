"""What a scorer does, step by step, without doing any input or output itself.

A plan is a generator. It yields an operation (`operations.py`), is sent the outcome, and returns
its result:

    score(image)   Encode -> [ GetConfig? -> Infer ] -> Score
    model()        [ GetConfig ] -> ModelCard
    health()       GetReady of each server until one is ready -> bool

    GetConfig?     only if this server's model card is not known, or is older than a minute
    [ ... ]        on one server; if it is not available, Sleep -> [ ... ] on the next one,
                   until an answer, the end of the call's time or of the retry budget

    >>> core = Core(["localhost:8001"], Retry())
    >>> plan = core.score(b"...", maps=False, clock=Clock(60), source="cat.png")
    >>> next(plan)                              # Encode(source=b"...", ...)
    >>> plan.send(b"...")                       # GetConfig(server=0, ...)
    >>> plan.send(config)                       # Infer(server=0, request=..., ...)
    >>> plan.send(result)                       # StopIteration: its value is the Score

`Scorer._run` carries plans out on threads and `AsyncScorer._run` on an event loop. So both make the
same decisions: what is sent, to which server, when it is sent again, and which error a failure is.
"""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from tritonclient.utils import InferenceServerException

from ma_agiqa_client._core import protocol
from ma_agiqa_client._core.balancing import Balancer
from ma_agiqa_client._core.operations import Encode, GetConfig, GetReady, Infer, Plan, Sleep
from ma_agiqa_client._core.prompts import encode_prompt
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.comparison import Comparison, compare
from ma_agiqa_client.connection import TrafficClass
from ma_agiqa_client.errors import (
    CannotAlignError,
    ClientError,
    DeadlineExceededError,
    RequestCancelledError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.retry import Clock, Outage, Retry
from ma_agiqa_client.score import Failure, Score

_CARD_AGE_S = 60.0
_MAX_INT64 = 2**63 - 1  # what a request's parameter can hold
_DEADLINE_SLACK_S = 0.1  # the server, which knows the deadline too, may cancel just before it

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Core:
    """The state that the calls of one scorer share, and their plans. Thread-safe."""

    def __init__(
        self,
        urls: Sequence[str],
        retry: Retry,
        version: int | None = None,
        traffic_class: TrafficClass = "interactive",
    ) -> None:
        """Start without having contacted any server.

        Args:
            urls: addresses of the servers; operations refer to them by index.
            retry: how long to wait for servers that are not available.
            version: the kept version of the model to ask for; None asks for the active one.
            traffic_class: "bulk" for images that can wait.
        """
        self._urls = urls
        self._balancer = Balancer(len(urls))
        self._outage = Outage(retry)
        self._version = version
        self._traffic_class: TrafficClass = traffic_class
        self._cards: dict[int, tuple[ModelCard, float]] = {}
        self._last_card: ModelCard | None = None
        self._clock_offset_us = 0

    def score(
        self,
        image: Any,
        maps: bool,
        clock: Clock,
        source: Any,
        index: int | None = None,
        prompt: str | None = None,
    ) -> Plan[Score]:
        """Score one image; every `ClientError` it raises has the request's id.

        Args:
            image: what is sent.
            maps: whether to ask for the patch maps.
            clock: the time that the call has left.
            source: what the caller gave, of which `image` may be a copy.
            index: position of the image among many.
            prompt: the text that it is compared with; None for the score alone.
        """
        request_id = uuid.uuid4().hex
        try:
            text = encode_prompt(prompt)
            data = yield Encode(image, clock.left_s())
            card, result = yield from self._infer(data, maps, request_id, clock, text)
            return protocol.read_score(
                result,
                card,
                source=source,
                index=index,
                latency_ms=clock.elapsed_ms(),
                maps=maps,
                request_id=request_id,
                prompted=text is not None,
            )
        except ClientError as error:
            error.request_id = request_id
            raise

    def attempt(
        self,
        image: Any,
        maps: bool,
        clock: Clock,
        source: Any,
        index: int,
        prompt: str | None = None,
    ) -> Plan[Score | Failure]:
        """Score one image of many; a `ClientError` becomes a `Failure`."""
        try:
            return (yield from self.score(image, maps, clock, source, index, prompt))
        except ClientError as error:
            return self.failure(error, clock, source, index)

    def failure(self, error: ClientError, clock: Clock, source: Any, index: int) -> Failure:
        """Describe an image that has no score."""
        names = {card.name for card, _ in list(self._cards.values())}
        model = names.pop() if len(names) == 1 else None
        return Failure(source, error, clock.elapsed_ms(), model, error.request_id, index)

    def known_card(self) -> ModelCard | None:
        """Return the card that the last scores came with; None before the first one."""
        return self._last_card

    def compare(self, a: Score | Failure, b: Score | Failure) -> Comparison:
        """Compare two images that were scored.

        Raises:
            ClientError: one of them has no score, or the model is not calibrated.
        """
        if isinstance(a, Failure):
            raise a.error
        if isinstance(b, Failure):
            raise b.error
        return compare(a, b, cast(ModelCard, self._last_card))  # with which the scores came

    def model(self, clock: Clock) -> Plan[ModelCard]:
        """Ask which model is served, even if it was known before."""

        def ask(server: int) -> Plan[ModelCard]:
            self._cards.pop(server, None)
            return (yield from self._card(server, clock))

        return (yield from self._try(ask, clock))

    def health(self, clock: Clock) -> Plan[bool]:
        """Find out whether any server is ready; nothing is sent again."""
        for server in range(len(self._urls)):
            # One that hangs does not use up the time of the others.
            share_s = clock.left_s() / (len(self._urls) - server)
            try:
                if (yield GetReady(server, max(share_s, 1e-3))):
                    return True
            except InferenceServerException as failure:
                logger.debug("%s is not ready: %s", self._urls[server], failure.message())
        return False

    def _infer(
        self, image: bytes, maps: bool, request_id: str, clock: Clock, prompt: bytes | None
    ) -> Plan[tuple[ModelCard, Any]]:
        def ask(server: int) -> Plan[tuple[ModelCard, Any]]:
            card = yield from self._card(server, clock)
            if prompt is not None and card.alignment is None:
                raise CannotAlignError(
                    f"The server at {self._urls[server]} scores images without prompts only: its "
                    "model was exported by an earlier version of export/to_triton.py. Export it "
                    "again, or leave the prompts out."
                )
            left_s = clock.left_s()
            deadline_us = self.server_deadline_us(left_s)
            request = protocol.InferRequest(
                image,
                maps,
                request_id,
                deadline_us,
                self._traffic_class,
                calibrated=card.calibration is not None,
                prompt=prompt,
            )
            return card, (yield Infer(server, request, left_s))

        return (yield from self._try(ask, clock, prompted=prompt is not None))

    def _card(self, server: int, clock: Clock) -> Plan[ModelCard]:
        """Get the server's card; it is asked for again after a minute, to notice a new model."""
        known = self._cards.get(server)
        if known and time.monotonic() - known[1] < _CARD_AGE_S:
            return known[0]
        card = protocol.read_card((yield GetConfig(server, clock.left_s())))
        for other in [one for one in list(self._cards) if one != server]:
            its_card = yield from self._card_if_other(other, card, clock)
            if its_card.checkpoint_sha256 != card.checkpoint_sha256:
                raise WrongModelError(
                    f"The servers serve different models: {self._urls[server]} has {card.name} "
                    f"({card.checkpoint_sha256[:12]}), {self._urls[other]} has {its_card.name} "
                    f"({its_card.checkpoint_sha256[:12]}). Their scores are not comparable: "
                    "give servers of one model only."
                )
        self._cards[server] = (card, time.monotonic())
        self._last_card = card
        return card

    def _card_if_other(self, server: int, card: ModelCard, clock: Clock) -> Plan[ModelCard]:
        """Get a server's card; if it was another one, it may have changed like this one."""
        known = self._cards.get(server)
        if known is None or known[0].checkpoint_sha256 == card.checkpoint_sha256:
            return card
        try:
            found = protocol.read_card((yield GetConfig(server, clock.left_s())))
        except InferenceServerException:
            self._cards.pop(server, None)  # it is compared when it answers again
            return card
        self._cards[server] = (found, time.monotonic())
        return found

    def _try(
        self, ask: Callable[[int], Plan[_T]], clock: Clock, prompted: bool = False
    ) -> Plan[_T]:
        """Ask a server; retry until one answers, time is up or the retry budget is used up."""
        tries, clock_corrected, card_renewed = 0, False, False
        while clock.left_s() > 0:
            tries += 1
            server = self._balancer.acquire()
            try:
                answer = yield from ask(server)
            except InferenceServerException as failure:
                if not clock_corrected and self.learns_clock(failure.message(), clock):
                    clock_corrected = True
                    continue
                if not card_renewed and protocol.lacks_output(failure.message()):
                    self._cards.pop(server, None)  # another version is active, not calibrated
                    card_renewed = True
                    continue
                error = protocol.to_client_error(
                    failure.status(),
                    failure.message(),
                    self._urls[server],
                    clock.timeout_s,
                    self._version,
                    prompted,
                )
                if isinstance(error, RequestCancelledError) and clock.left_s() < _DEADLINE_SLACK_S:
                    error = protocol.deadline_exceeded(self._urls[server], clock.timeout_s)
                delay_s = self._delay_s(error, server, tries, clock)
                if delay_s is None:
                    raise error from failure
            else:
                self._outage.ended()
                return answer
            finally:
                self._balancer.release(server)
            yield Sleep(delay_s)
        raise protocol.deadline_exceeded(", ".join(self._urls), clock.timeout_s)

    def _delay_s(self, error: ClientError, server: int, tries: int, clock: Clock) -> float | None:
        """Return the seconds to wait before the next try, or None to raise the error."""
        if not isinstance(error, ServerUnavailableError):
            if not isinstance(error, DeadlineExceededError):
                self._outage.ended()
            return None
        self._cards.pop(server, None)  # the next server that answers may serve another model
        another = self._balancer.pause(server)
        delay_s = self._outage.delay_s(tries, clock.left_s())
        return 0.0 if another and tries < len(self._urls) else delay_s

    def learns_clock(self, refusal: str, clock: Clock) -> bool:
        """Correct for the server's clock if a refusal has it; return whether to send again."""
        server_us = protocol.server_clock_us(refusal)
        if server_us is None or clock.left_s() <= 0:
            return False
        offset_us = server_us - time.time_ns() // 1000
        logger.warning("The server's clock is %.3f s ahead of this one.", offset_us / 1e6)
        self._clock_offset_us = max(self._clock_offset_us, offset_us)
        return True

    def server_deadline_us(self, left_s: float) -> int:
        """Return the deadline on the server's clock, as far as it is known to be ahead.

        A server whose clock is behind refuses late, which costs it work but costs no answer. A
        server whose clock is ahead refuses early: this client then has time left, learns the
        difference from the refusal, and sends the image again.
        """
        deadline_us = time.time_ns() // 1000 + round(min(left_s, 1e9) * 1e6)
        return min(deadline_us + self._clock_offset_us, _MAX_INT64)
