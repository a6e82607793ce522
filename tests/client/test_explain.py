"""What is asked of a server that explains, and how its failures are called, over real gRPC."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme
from click.testing import CliRunner

from ma_agiqa_client import (
    AnswerPart,
    AuthenticationError,
    CannotExplainError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidQuestionError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    Tls,
    cli,
)
from ma_agiqa_client.explain import QUESTIONS
from ma_agiqa_client.retry import Clock
from support.scripted_server import ScriptedServer, Speak

STATUS = grpc.StatusCode


@pytest.fixture
def scorer(either):
    return either


def test_a_question_is_answered_piece_by_piece(scorer, scripted):
    parts = list(scorer.explain(b"image", "How come, Zoë?", max_tokens=7))
    assert parts == [AnswerPart("How come, Zoë?", word) for word in ("How", "come,", "Zoë?")]
    request = scripted.requests[0]
    assert request.model_name == "mplug_owl2_answer"
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("IMAGE", "BYTES", [1]),
        ("QUESTION", "BYTES", [1]),
    ]
    assert request.raw_input_contents[0] == b"\5\0\0\0image"
    assert request.parameters["max_tokens"].int64_param == 7
    assert time.time() < deadline_s(request) <= time.time() + 20


def test_by_default_the_papers_questions_are_asked_one_after_the_other(scorer, scripted):
    answers: dict[str, list[str]] = {}
    for part in scorer.explain(b"image"):
        answers.setdefault(part.question, []).append(part.text)
    assert {name: " ".join(words) for name, words in answers.items()} == dict(QUESTIONS)
    assert len(scripted.requests) == 2
    assert {r.parameters["max_tokens"].int64_param for r in scripted.requests} == {512}
    assert len({r.id for r in scripted.requests} - {""}) == 2


def test_an_encrypted_channel_with_a_token(kind):
    issuer = trustme.CA()
    with (
        ScriptedServer(issuer.issue_cert("localhost")) as server,
        issuer.cert_pem.tempfile() as trusted,
        kind(server.url, tls=Tls(root_certificates=trusted), token="secret") as scorer,
    ):
        assert list(scorer.explain(b"image", "Why?")) == [AnswerPart("Why?", "Why?")]
        assert scorer.score(b"1").mos == 1
        assert [h["authorization"] for h in server.headers] == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    ("status", "said", "error", "sentence"),
    [
        (STATUS.UNIMPLEMENTED, "It has no words.", CannotExplainError, "It has no words."),
        (STATUS.INVALID_ARGUMENT, "The question is odd.", InvalidQuestionError, "is odd."),
        (STATUS.INVALID_ARGUMENT, "The image is odd.", InvalidImageError, "The image is odd."),
        (STATUS.UNAVAILABLE, "Too busy.", ServerUnavailableError, "Too busy."),
        (STATUS.CANCELLED, "DEADLINE_EXCEEDED: late.", DeadlineExceededError, "late."),
        (STATUS.UNAUTHENTICATED, "Who?", AuthenticationError, "Who?"),
        (STATUS.INTERNAL, "Oh.\nTraceback: /opt/x.py", ServerError, "Oh."),
    ],
)
def test_failures_have_types_after_the_text_that_came(
    scorer, scripted, status, said, error, sentence
):
    def answer(request, context):
        yield "Well"
        context.abort(status, said)

    scripted.speak = answer
    parts = scorer.explain(b"image", "Why?")
    assert next(parts).text == "Well"
    with pytest.raises(error) as caught:
        next(parts)
    assert sentence in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(scripted.requests) == 1  # nothing is tried again
    assert caught.value.request_id == scripted.requests[0].id


@pytest.mark.parametrize(
    "said",
    [
        "Request for unknown model: 'mplug_owl2_answer' is not found",
        "Request for unknown model: 'mplug_owl2_answer' has no available versions",
    ],
)
def test_a_model_that_is_not_loaded_is_named(scorer, scripted, said):
    scripted.speak = lambda request, context: iter([Exception(said)])
    with pytest.raises(CannotExplainError, match="Start the server with --explain"):
        list(scorer.explain(b"image", "Why?"))


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("INVALID_ARGUMENT: The question is odd.", InvalidQuestionError),
        ("INVALID_ARGUMENT: The image is odd.", InvalidImageError),
        ("UNIMPLEMENTED: The image is odd.", CannotExplainError),
        ("INTERNAL: The image is odd.", ServerError),
        ("The image is odd.", ServerError),
    ],
)
def test_the_models_sentence_begins_with_its_status(scorer, scripted, said, error):
    scripted.speak = lambda request, context: iter([Exception(said)])
    with pytest.raises(error, match=r"The (image|question) is odd\.") as caught:
        list(scorer.explain(b"image", "Why?"))
    assert "INVALID_ARGUMENT" not in str(caught.value)
    assert caught.value.request_id == scripted.requests[0].id


def test_the_deadline_is_for_the_whole_answer(scorer, scripted):
    def slowly(request, context):
        yield "Well"
        while context.is_active():
            pass

    scripted.speak = slowly
    parts = scorer.explain(b"image", "Why?", timeout_s=0.5)
    assert next(parts).text == "Well"
    with pytest.raises(DeadlineExceededError, match=r"within 0\.5 s"):
        next(parts)


def deadline_s(request) -> float:
    return request.parameters["deadline_unix_us"].int64_param / 1e6


def refuse_expired(clock: Callable[[], float], after: Sequence[str] = ()) -> Speak:
    """Refuse as the served model does, where `clock` gives its Unix time, after some words."""

    def answer(request, context):
        yield from after
        if deadline_s(request) < (server_s := clock()):
            yield Exception(f"DEADLINE_EXCEEDED: late (server clock {round(server_s * 1e6)} us).")
        yield "Well"

    return answer


@pytest.mark.parametrize(("ahead_s", "requests"), [(3600, 2), (-3600, 1)])
def test_a_server_whose_clock_differs_answers(scorer, scripted, ahead_s, requests):
    scripted.speak = refuse_expired(lambda: time.time() + ahead_s)
    assert list(scorer.explain(b"image", "Why?", timeout_s=5)) == [AnswerPart("Why?", "Well")]
    assert len(scripted.requests) == requests
    assert len({request.id for request in scripted.requests}) == 1
    assert len(list(scorer.explain(b"image", timeout_s=5))) == 2
    assert len(scripted.requests) == requests + 2  # it has learned the difference


def test_the_clock_that_a_score_taught_is_known(scorer, scripted):
    scorer._core.learns_clock(
        f"DEADLINE_EXCEEDED: late (server clock {round((time.time() + 3600) * 1e6)} us).", Clock(5)
    )
    scripted.speak = refuse_expired(lambda: time.time() + 3600)
    assert len(list(scorer.explain(b"image", "Why?", timeout_s=5))) == 1
    assert len(scripted.requests) == 1


def test_closing_the_scorer_ends_its_answers(scorer, scripted):
    def answer(request, context):
        yield "Well"
        while context.is_active():
            time.sleep(0.01)

    scripted.speak = answer
    parts = scorer.explain(b"image", "Why?")
    assert next(parts).text == "Well"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, parts)
        scorer.close()
        with pytest.raises(RequestCancelledError):
            waiting.result(10)


def test_a_scorer_that_is_closed_early_asks_nothing(scorer, scripted):
    parts = scorer.explain(b"image", "Why?")
    scorer.close()
    with pytest.raises(RequestCancelledError):
        next(parts)
    assert not scripted.requests


@pytest.mark.parametrize(
    "asked", [{"question": ""}, {"question": " \n"}, {"max_tokens": 0}, {"max_tokens": 513}]
)
def test_what_can_be_known_beforehand_is_not_sent(scorer, scripted, asked):
    with pytest.raises(InvalidQuestionError):
        scorer.explain(b"image", **asked)
    assert not scripted.requests


def test_a_server_that_refuses_again_ends_the_answer(scorer, scripted):
    scripted.speak = refuse_expired(lambda: 1e12 + len(scripted.requests) * 1e6)
    with pytest.raises(DeadlineExceededError, match="late"):
        list(scorer.explain(b"image", "Why?"))
    assert len(scripted.requests) == 2


def test_an_answer_that_has_begun_is_not_asked_for_again(scorer, scripted):
    scripted.speak = refuse_expired(lambda: time.time() + 3600, after=["Oh"])
    parts = scorer.explain(b"image", "Why?", timeout_s=5)
    assert next(parts).text == "Oh"
    with pytest.raises(DeadlineExceededError, match="late"):
        next(parts)
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--explain", "--format", "json"), "json has no place for it"),
        (("--question", "Why?", "--output", "scores.csv"), "csv has no place for it"),
        (("--question", " "), "--question is empty"),
    ],
)
def test_the_command_line_refuses_what_cannot_be(tmp_path, scripted, arguments, sentence):
    (tmp_path / "a.png").write_bytes(b"1")
    result = CliRunner().invoke(cli.main, [str(tmp_path), "--url", scripted.url, *arguments])
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not scripted.requests
