"""What a scorer does, step by step, without doing any input or output itself.

A plan is a generator: it yields what has to be done next, is sent the outcome, and returns its
result. `Scorer` carries plans out on threads and `AsyncScorer` on an event loop, so both take the
same decisions: what is sent, to whom, when again, and what a failure is called.
"""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from ma_agiqa_client._core import protocol
from ma_agiqa_client._core.balancing import Balancer
from ma_agiqa_client._core.operations import (
    Encode,
    GetConfig,
    GetReady,
    Infer,
    Plan,
    Register,
    Sleep,
    Unregister,
)
from ma_agiqa_client._wire.images import ImageLike
from ma_agiqa_client._wire.shared_memory import Region
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.retry import Clock, Outage, Retry
from ma_agiqa_client.score import Score

__all__ = ["Core"]

_CARD_AGE_S = 60.0
_UNREGISTER_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Core:
    """The state that the calls of one scorer share, and their plans. Thread-safe."""

    def __init__(
        self,
        urls: Sequence[str],
        retry: Retry,
        region: Region | None = None,
        version: int | None = None,
    ) -> None:
        """Start without having seen any server.

        Args:
            urls: the servers; operations name them by their place here.
            retry: how outages are waited out.
            region: memory shared with the one server.
            version: the kept version that the servers are asked for; None is the active one.
        """
        self._urls = urls
        self._balancer = Balancer(len(urls))
        self._outage = Outage(retry)
        self._region = region
        self._version = version
        self._registered = False
        self._cards: dict[int, tuple[ModelCard, float]] = {}
        self._clock_offset_us = 0

    def score(
        self, image: ImageLike, maps: bool, clock: Clock, source: Any, index: int | None = None
    ) -> Plan[Score]:
        """Score one image; every `ClientError` it raises carries the request's id.

        Args:
            image: what is sent.
            maps: whether to ask for the patch maps.
            clock: the time the call has.
            source: what the caller gave, of which `image` may be a copy.
            index: its place among many.
        """
        request_id = uuid.uuid4().hex
        try:
            data = yield Encode(image, clock.left_s())
            card, result = yield from self._infer(data, maps, request_id, clock)
            return protocol.read_score(
                result,
                card,
                source=source,
                index=index,
                latency_ms=clock.elapsed_ms(),
                maps=maps,
                request_id=request_id,
            )
        except ClientError as error:
            error.request_id = request_id
            raise

    def attempt(
        self, image: ImageLike, maps: bool, clock: Clock, source: Any, index: int
    ) -> Plan[Score]:
        """Score one of many: a failure becomes a score that says why there is none."""
        try:
            return (yield from self.score(image, maps, clock, source, index))
        except ClientError as error:
            return self.failed(error, clock, source, index)

    def failed(self, error: ClientError, clock: Clock, source: Any, index: int) -> Score:
        """The score of an image that has none."""
        names = {card.name for card, _ in list(self._cards.values())}
        return Score.failed(
            error,
            clock.elapsed_ms(),
            names.pop() if len(names) == 1 else None,
            source=source,
            request_id=error.request_id,
            index=index,
        )

    def model(self, clock: Clock) -> Plan[ModelCard]:
        """Ask anew which model is served."""

        def ask(server: int) -> Plan[ModelCard]:
            self._cards.pop(server, None)
            return (yield from self._card(server, clock))

        return (yield from self._try(ask, clock))

    def health(self, clock: Clock) -> Plan[bool]:
        """Whether any of the servers is ready; nothing is tried again."""
        for server in range(len(self._urls)):
            share_s = clock.left_s() / (len(self._urls) - server)  # one that hangs is not all
            try:
                if (yield GetReady(server, max(share_s, 1e-3))):
                    return True
            except InferenceServerException as failure:
                logger.debug("%s is not ready: %s", self._urls[server], failure.message())
        return False

    def close(self) -> Plan[None]:
        """Give the shared memory back."""
        if self._region is None:
            return
        try:
            if self._registered:
                yield Unregister(0, self._region.name, _UNREGISTER_TIMEOUT_S)
        except InferenceServerException as failure:  # a server that is gone holds nothing
            logger.debug("The shared memory was not given back: %s", failure.message())
        finally:
            self._region.close()

    def _infer(
        self, image: bytes, maps: bool, request_id: str, clock: Clock
    ) -> Plan[tuple[ModelCard, Any]]:
        slot = self._region.put(image) if self._region else None

        def ask(server: int) -> Plan[tuple[ModelCard, Any]]:
            card = yield from self._card(server, clock)
            if slot and not self._registered:
                yield from self._register(server, clock)
            left_s = clock.left_s()
            request = protocol.build_request(
                slot or image, maps, request_id, self.server_deadline_us(left_s)
            )
            return card, (yield Infer(server, request, left_s))

        try:
            return (yield from self._try(ask, clock))
        finally:
            if slot and self._region:
                self._region.give_back(slot)

    def _card(self, server: int, clock: Clock) -> Plan[ModelCard]:
        """The server's card, asked for at most once a minute, so that a new model is noticed."""
        known = self._cards.get(server)
        if known and time.monotonic() - known[1] < _CARD_AGE_S:
            return known[0]
        card = protocol.read_card((yield GetConfig(server, clock.left_s())))
        for other, (its_card, _) in list(self._cards.items()):
            if other != server and its_card.checkpoint_sha256 != card.checkpoint_sha256:
                raise WrongModelError(
                    f"The servers serve different models: {self._urls[server]} has {card.name} "
                    f"({card.checkpoint_sha256[:12]}), {self._urls[other]} has {its_card.name} "
                    f"({its_card.checkpoint_sha256[:12]}). Their scores are not comparable: "
                    "name servers of one model only."
                )
        self._cards[server] = (card, time.monotonic())
        return card

    def _register(self, server: int, clock: Clock) -> Plan[None]:
        """Have the region mapped. Threads that race for it find it mapped already: no lock."""
        if self._region is None:
            return
        try:
            yield Register(server, self._region.name, self._region.byte_size, clock.left_s())
        except InferenceServerException as failure:
            if "ALREADY_EXISTS" not in (failure.status() or ""):
                raise
        self._registered = True

    def _try(self, ask: Callable[[int], Plan[_T]], clock: Clock) -> Plan[_T]:
        """Ask a server until one answers, time is up or an outage has lasted for too long."""
        tries, forgiven = 0, False
        while clock.left_s() > 0:
            tries += 1
            server = self._balancer.take()
            try:
                answer = yield from ask(server)
            except InferenceServerException as failure:
                if not forgiven and self._may_be_forgiven(failure, clock):
                    forgiven = True
                    continue
                error = protocol.to_client_error(
                    failure.status(),
                    failure.message(),
                    self._urls[server],
                    clock.timeout_s,
                    self._version,
                )
                delay_s = self._delay_s(error, server, tries, clock)
                if delay_s is None:
                    raise error from failure
            else:
                self._outage.ended()
                return answer
            finally:
                self._balancer.give_back(server)
            yield Sleep(delay_s)
        raise protocol.deadline_exceeded(", ".join(self._urls), clock.timeout_s)

    def _delay_s(self, error: ClientError, server: int, tries: int, clock: Clock) -> float | None:
        if not isinstance(error, ServerUnavailableError):
            if not isinstance(error, DeadlineExceededError):
                self._outage.ended()
            return None
        self._cards.pop(server, None)  # whoever answers next may serve another model
        another = self._balancer.rest(server)
        delay_s = self._outage.delay_s(tries, clock.left_s())
        return 0.0 if another and tries < len(self._urls) else delay_s

    def _may_be_forgiven(self, failure: InferenceServerException, clock: Clock) -> bool:
        """Whether the next try goes differently, because something was learned from this one."""
        if protocol.has_lost_region(failure.message()):  # the server was restarted
            self._registered = False
            return True
        return self.learns_clock(failure.message(), clock)

    def learns_clock(self, refusal: str, clock: Clock) -> bool:
        """Whether a refusal tells the server's clock, which is then known, to a call with time."""
        server_us = protocol.server_clock_us(refusal)
        if server_us is None or clock.left_s() <= 0:
            return False
        offset_us = server_us - time.time_ns() // 1000
        logger.warning("The server's clock is %.3f s ahead of this one.", offset_us / 1e6)
        self._clock_offset_us = max(self._clock_offset_us, offset_us)
        return True

    def server_deadline_us(self, left_s: float) -> int:
        """The deadline on the server's clock, as far as it is known to be ahead of this one.

        A server whose clock is behind refuses late, which costs work but no answer. One that is
        ahead refuses early; this client has time left then, learns the difference from the
        refusal, and sends the image again.
        """
        return time.time_ns() // 1000 + round(min(left_s, 1e9) * 1e6) + self._clock_offset_us
