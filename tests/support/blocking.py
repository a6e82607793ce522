"""`AsyncScorer` with the methods of `Scorer`, for tests of what both have in common."""

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

from ma_agiqa_client import AsyncScorer

_END = object()


class Blocking:
    """An `AsyncScorer` on an event loop of its own; every method waits, on any thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._scorer = AsyncScorer(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        """Return a method that waits for that of the scorer, or an attribute of the scorer."""
        found = getattr(self._scorer, name)
        return (lambda *a, **o: self._wait(found(*a, **o))) if callable(found) else found

    def score_many(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        return self._each(self._scorer.score_many(*arguments, **options))

    def explain(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        return self._each(self._scorer.explain(*arguments, **options))

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._scorer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _each(self, items: Any) -> Iterator[Any]:
        try:
            while (item := self._wait(anext(items, _END))) is not _END:
                yield item
        finally:
            self._wait(items.aclose())

    def _wait(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()
