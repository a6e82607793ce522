"""Streamed answers of the real server, against the same network in this process."""

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from embedded.server import EmbeddedTriton
from ma_agiqa.images.views import decode, semantic_view
from ma_agiqa.lmm import tokenizer as questions
from ma_agiqa.lmm.answers import Answerer, language_head
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.lmm.tokenizer import Tokenizer
from ma_agiqa_client import (
    AsyncScorer,
    CannotExplainError,
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidQuestionError,
    RequestCancelledError,
    Scorer,
    explain,
)
from ma_agiqa_client._core.plan import Core
from ma_agiqa_client._programs.console import printable
from support.answers import generate
from support.triton_requests import images_computed
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
IMAGE = next((ROOT / "examples").glob("*.jpg"))
QUESTION = "What is wrong with this image?"
TOKENS = 16


@pytest.fixture(scope="module")
def scorer(worded):
    with Scorer(worded.grpc_url) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def in_process(mplug_owl2):
    """The answer's text, computed here."""
    embedder = build_embedder(str(mplug_owl2))
    answerer = Answerer(embedder, language_head(str(mplug_owl2), embedder.model))
    tokenizer = Tokenizer.of_checkpoint(str(mplug_owl2))

    def answer(image: bytes, question: str, max_tokens: int) -> str:
        view = torch.from_numpy(semantic_view(decode(image), embedder.image_size))
        return tokenizer.text(
            list(generate(answerer, view, tokenizer.prompt(question), max_tokens))
        )

    return answer


def text_of(parts, question: str = QUESTION) -> str:
    return "".join(part.text for part in parts if part.question == question)


def test_without_a_question_the_papers_two_are_answered(scorer, in_process):
    parts = list(scorer.explain(IMAGE, max_tokens=TOKENS))
    assert len(parts) > TOKENS  # it comes in pieces
    assert list(dict.fromkeys(part.question for part in parts)) == list(explain.QUESTIONS)
    answers = {name: text_of(parts, name) for name in explain.QUESTIONS}
    data = IMAGE.read_bytes()
    assert answers == {n: in_process(data, q, TOKENS) for n, q in explain.QUESTIONS.items()}
    assert len(set(answers.values())) == 2


def test_the_client_asks_the_questions_of_the_paper():
    assert dict(explain.QUESTIONS) == dict(questions.QUESTIONS)
    assert explain.MAX_ANSWER_TOKENS == questions.MAX_ANSWER_TOKENS


def test_answers_and_scores_at_once_do_not_mix(scorer, in_process):
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(5)]
    data = [scorer._encoder.encode(image, 1.0) for image in images]
    alone = [scorer.score(image).mos for image in images]
    expected = [in_process(one, QUESTION, TOKENS) for one in data]
    with ThreadPoolExecutor(5) as pool:
        answers = pool.map(
            lambda one: text_of(scorer.explain(one, QUESTION, max_tokens=TOKENS)), data
        )
        together = [score.mos for score in scorer.score_many(images * 20)]
        assert list(answers) == expected
    assert together == pytest.approx(alone * 20, abs=1e-4)
    assert len(set(expected)) > 1


def test_the_weights_are_in_one_process(scorer, worded):
    list(scorer.explain(IMAGE, QUESTION, max_tokens=1))
    stubs = psutil.Process(worded.pid).children()  # each was started for .../MODEL/1/model.py
    maps = {
        Path(stub.cmdline()[1]).parents[1].name: Path(f"/proc/{stub.pid}/maps").read_text()
        for stub in stubs
    }
    assert "libtorch" in maps["mplug_owl2"]
    assert "libtorch" not in maps["mplug_owl2_answer"]


@pytest.mark.parametrize(
    ("image", "question", "error", "sentence"),
    [
        (b"no image", QUESTION, InvalidImageError, "not an image that can be read"),
        (b"", QUESTION, InvalidImageError, "0 bytes"),
        (IMAGE, "", InvalidQuestionError, "The question is empty"),
        (IMAGE, " \n", InvalidQuestionError, "The question is empty"),
        (IMAGE, "é" * 600, InvalidQuestionError, "1,2.. tokens; at most 1,000"),
        (IMAGE, "a" * 20_000, InvalidQuestionError, "20,000 characters; at most 10,000"),
    ],
)
def test_what_cannot_be_asked_is_typed(scorer, image, question, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        list(scorer.explain(image, question))
    for inside in ("Traceback", ".py", str(ROOT), "site-packages"):
        assert inside not in str(caught.value)


@pytest.mark.parametrize("max_tokens", [0, 513])
def test_lengths_have_limits_in_the_client_and_the_server(scorer, monkeypatch, max_tokens):
    with pytest.raises(InvalidQuestionError, match="expected 1 to 512"):
        scorer.explain(IMAGE, QUESTION, max_tokens=max_tokens)
    monkeypatch.setattr(explain.Inquiry, "__post_init__", lambda self: None)
    with pytest.raises(InvalidQuestionError, match=rf"max_tokens = {max_tokens}; expected 1 to"):
        list(scorer.explain(IMAGE, QUESTION, max_tokens=max_tokens))


def given_up(server: EmbeddedTriton) -> int:
    return server.log_file.read_text(errors="replace").count("given up by the client")


def test_closing_the_iterator_stops_the_server(scorer, worded):
    before = given_up(worded)
    parts = scorer.explain(IMAGE, QUESTION, max_tokens=512)
    next(parts)
    parts.close()
    wait_until(lambda: given_up(worded) > before)
    assert len(list(scorer.explain(IMAGE, QUESTION, max_tokens=2))) >= 1


def test_cancelling_the_task_stops_the_server(worded):
    before = given_up(worded)

    async def ask() -> None:
        async with AsyncScorer(worded.grpc_url) as scorer:
            first = asyncio.Event()

            async def read() -> None:
                async for _ in scorer.explain(IMAGE, QUESTION, max_tokens=512):
                    first.set()

            task = asyncio.create_task(read())
            await first.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    wait_until(lambda: given_up(worded) > before)


def test_closing_the_scorer_ends_its_answers(worded):
    before = given_up(worded)
    scorer = Scorer(worded.grpc_url)
    first, ended = threading.Event(), []

    def read() -> None:
        try:
            for _ in scorer.explain(IMAGE, QUESTION, max_tokens=512):
                first.set()
        except ClientError as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert first.wait(120)
    scorer.close()
    thread.join(120)
    assert [type(error) for error in ended] == [RequestCancelledError]
    wait_until(lambda: given_up(worded) > before)


def test_a_deadline_ends_an_answer_here_and_there(scorer, worded):
    before = images_computed(worded, "mplug_owl2")  # it computes tokens, too
    with pytest.raises(DeadlineExceededError):
        list(scorer.explain(IMAGE, QUESTION, max_tokens=512, timeout_s=0.25))
    assert images_computed(worded, "mplug_owl2") - before < 512


@pytest.mark.parametrize(
    ("after_s", "sentence"),
    [
        (-1.0, "came to step mplug_owl2_answer"),
        (0.5, "the time was over after|came to step mplug_owl2"),  # between tokens, or in one
    ],
)
def test_the_server_keeps_deadlines_itself(scorer, monkeypatch, after_s, sentence):
    """The server's deadline is another than the one that gRPC knows."""

    def deadline_us(core: Core, left_s: float) -> int:
        return time.time_ns() // 1000 + round(after_s * 1e6)

    monkeypatch.setattr(Core, "server_deadline_us", deadline_us)
    with pytest.raises(DeadlineExceededError, match=sentence):
        list(scorer.explain(IMAGE, QUESTION, max_tokens=512))


def test_the_request_is_found_by_its_id(scorer):
    with pytest.raises(InvalidImageError) as caught:
        list(scorer.explain(b"no image", QUESTION))
    assert len(caught.value.request_id) == 32


def test_the_demo_says_that_it_cannot_answer(server, score_py):
    with Scorer(server.grpc_url) as scorer:
        with pytest.raises(CannotExplainError, match="random weights and no tokenizer"):
            list(scorer.explain(IMAGE, QUESTION))
        assert scorer.score(IMAGE).mos is not None
    done = score_py(IMAGE, "--url", server.grpc_url, "--explain")
    assert done.exit_code == 6
    assert "The demo's language model has random weights" in done.stderr
    assert IMAGE.name in done.stdout


def test_the_command_line_writes_answers_below_the_table(
    worded, scorer, score_py, tmp_path, monkeypatch
):
    monkeypatch.setitem(Scorer.explain.__kwdefaults__, "max_tokens", TOKENS)
    images = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for image in images:
        shutil.copyfile(IMAGE, image)
    done = score_py(*images, "--url", worded.grpc_url, "--question", QUESTION)
    assert done.exit_code == 0, done.stderr
    table, *answers = done.stdout.split(f"\n  {QUESTION}: ")
    assert "Model: ma-agiqa-demo" in table
    assert table.endswith(f"\n\n{images[0]}")
    expected = text_of(scorer.explain(IMAGE, QUESTION))
    assert "\n" not in expected
    assert [answer.split("\n")[0] for answer in answers] == [printable(expected)] * 2


def test_a_server_that_does_not_explain_says_so(stand_in, score_py):
    done = score_py(IMAGE, "--url", stand_in.grpc_url, "--explain")
    assert done.exit_code == 6
    assert IMAGE.name in done.stdout
    assert "Start the server with --explain" in done.stderr
