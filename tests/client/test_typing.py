"""What a strict type checker of a user finds out: nothing has to be asserted."""

import asyncio
from pathlib import Path

import pytest
from mypy import api

from ma_agiqa_client import AsyncScorer, InvalidImageError
from support import typed_example

ROOT = Path(__file__).resolve().parents[2]
FORGOTTEN = "import ma_agiqa_client as c\nfor score in c.Scorer().score_many([]): score.mos"


@pytest.fixture
def mypy(monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(ROOT / "client"))
    monkeypatch.chdir(ROOT)
    return lambda *arguments: api.run(["--strict", *arguments])


def test_typed_code_needs_no_assert(mypy):
    found, _, status = mypy("tests/support/typed_example.py")
    assert status == 0, found


def test_a_failure_that_is_forgotten_is_found(mypy, tmp_path):
    (tmp_path / "user.py").write_text(FORGOTTEN)
    found, _, status = mypy(str(tmp_path / "user.py"))
    assert status == 1
    assert 'Item "Failure" of "Score | Failure" has no attribute "mos"' in found


def test_typed_code_runs(scripted, scorer):
    images = [b"25", b"no number", b"50"]
    assert typed_example.one(scorer, b"25") == 25.5
    assert typed_example.those_that_succeed(scorer, images) == [25, 50]
    assert typed_example.branches(scorer, images)[0] == "0: 25 %"
    assert typed_example.identity(scorer, images) == [0.25, 0, 0.5]
    assert typed_example.until_a_good_one(scorer, images) == 50
    assert typed_example.best(scorer, images) == 50
    with pytest.raises(InvalidImageError):
        typed_example.best(scorer, images[1:2])

    async def main() -> list[float]:
        async with AsyncScorer(scripted.url) as scorer:
            return await typed_example.in_an_event_loop(scorer, images)

    assert asyncio.run(main()) == [25, 25, 50]
