"""Typed code of a user, without any assert or cast; tests/client/test_typing.py runs it."""

from collections.abc import Sequence
from contextlib import closing

from typing_extensions import assert_type

from ma_agiqa_client import AsyncScorer, Failure, Scorer


def one(scorer: Scorer, image: bytes) -> float:
    return scorer.score(image).mos + scorer.score(image).gate.quality


def those_that_succeed(scorer: Scorer, images: Sequence[bytes]) -> list[float]:
    return [score.mos for score in scorer.score_many(images) if not score.error]


def branches(scorer: Scorer, images: Sequence[bytes]) -> list[str]:
    lines = []
    for score in scorer.score_many(images):
        if score.error:
            assert_type(score, Failure)
            lines.append(f"{score.index}: {score.error}")
        else:
            lines.append(f"{score.index}: {score.percentile:.0f} %")
    return lines


def identity(scorer: Scorer, images: Sequence[bytes]) -> list[float]:
    return [s.normalized if s.error is None else 0.0 for s in scorer.score_many(images)]


def until_a_good_one(scorer: Scorer, images: Sequence[bytes]) -> float:
    with closing(scorer.score_many(images)) as scores:
        return next((score.mos for score in scores if not score.error and score.mos > 30), 0.0)


def best(scorer: Scorer, images: Sequence[bytes]) -> float:
    first = scorer.rank(images)[0]
    if isinstance(first, Failure):
        raise first.error
    return first.mos


async def in_an_event_loop(scorer: AsyncScorer, images: Sequence[bytes]) -> list[float]:
    mos = [(await scorer.score(images[0])).mos]
    async for score in scorer.score_many(images):
        mos += [] if score.error else [score.mos]
    return mos
