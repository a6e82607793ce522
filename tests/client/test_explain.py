"""What is asked of a server that explains, and how its failures are called, over real gRPC."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme
from click.testing import CliRunner
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ma_agiqa_client import (
    AnswerPart,
    AsyncScorer,
    AuthenticationError,
    CannotExplainError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidQuestionError,
    RequestCancelledError,
    Scorer,
    ServerError,
    ServerUnavailableError,
    Tls,
    cli,
)
from ma_agiqa_client.explain import QUESTIONS
from ma_agiqa_client.retry import Clock

Request = service_pb2.ModelInferRequest
STATUS = grpc.StatusCode
Answer = Callable[[Request, grpc.ServicerContext], Iterator[str | Exception]]


class Speaker(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Streams what `answer` gives: text, or the sentence of an exception as Triton's own error."""

    def __init__(self) -> None:
        self.answer: Answer = self.repeat
        self.requests: list[Request] = []
        self.headers: list[dict[str, str]] = []
        self.server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)

    @staticmethod
    def repeat(request: Request, context: grpc.ServicerContext) -> Iterator[str]:
        """The question, word by word."""
        for word in request.raw_input_contents[1][4:].decode().split():
            yield word
            yield ""

    def ModelStreamInfer(self, request_iterator, context):
        for request in request_iterator:
            self.requests.append(request)
            self.headers.append({k: str(v) for k, v in context.invocation_metadata()})
            for text in self.answer(request, context):
                response = service_pb2.ModelStreamInferResponse()
                if isinstance(text, Exception):
                    response.error_message = str(text)
                    yield response
                    break
                data = text.encode()
                response.infer_response.outputs.add(name="TEXT", datatype="BYTES", shape=[1])
                response.infer_response.raw_output_contents.append(
                    len(data).to_bytes(4, "little") + data
                )
                yield response


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    speaker = Speaker()
    speaker.url = f"127.0.0.1:{speaker.server.add_insecure_port('127.0.0.1:0')}"
    speaker.server.start()
    yield speaker
    speaker.server.stop(grace=None).wait()


@pytest.fixture
def scorer(speaker):
    with Scorer(speaker.url, timeout_s=20) as scorer:
        yield scorer


def test_a_question_is_answered_piece_by_piece(scorer, speaker):
    parts = list(scorer.explain(b"image", "How come, Zoë?", max_tokens=7))
    assert parts == [AnswerPart("How come, Zoë?", word) for word in ("How", "come,", "Zoë?")]
    request = speaker.requests[0]
    assert request.model_name == "mplug_owl2_answer"
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("IMAGE", "BYTES", [1]),
        ("QUESTION", "BYTES", [1]),
    ]
    assert request.raw_input_contents[0] == b"\5\0\0\0image"
    assert request.parameters["max_tokens"].int64_param == 7


def test_by_default_the_papers_questions_are_asked_one_after_the_other(scorer, speaker):
    answers: dict[str, list[str]] = {}
    for part in scorer.explain(b"image"):
        answers.setdefault(part.question, []).append(part.text)
    assert {name: " ".join(words) for name, words in answers.items()} == dict(QUESTIONS)
    assert len(speaker.requests) == 2
    assert {r.parameters["max_tokens"].int64_param for r in speaker.requests} == {512}
    assert len({r.id for r in speaker.requests} - {""}) == 2


def test_headers_and_token_travel(speaker):
    with Scorer(speaker.url, token="secret", metadata={"x-team": "red"}) as scorer:
        list(scorer.explain(b"image", "Why?"))
    sent = {"authorization": "Bearer secret", "x-team": "red"}
    assert sent.items() <= speaker.headers[0].items()


def test_an_encrypted_channel():
    issuer = trustme.CA()
    mine = issuer.issue_cert("localhost")
    pair = (mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes())
    other = Speaker()
    number = other.server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    other.server.start()
    try:
        with issuer.cert_pem.tempfile() as trusted:
            tls = Tls(root_certificates=trusted)
            with Scorer(f"localhost:{number}", tls=tls) as scorer:
                assert list(scorer.explain(b"image", "Why?")) == [AnswerPart("Why?", "Why?")]
    finally:
        other.server.stop(grace=None).wait()


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
    scorer, speaker, status, said, error, sentence
):
    def answer(request, context):
        yield "Well"
        context.abort(status, said)

    speaker.answer = answer
    parts = scorer.explain(b"image", "Why?")
    assert next(parts).text == "Well"
    with pytest.raises(error) as caught:
        next(parts)
    assert sentence in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert len(speaker.requests) == 1  # nothing is tried again
    assert caught.value.request_id == speaker.requests[0].id


@pytest.mark.parametrize(
    "said",
    [
        "Request for unknown model: 'mplug_owl2_answer' is not found",
        "Request for unknown model: 'mplug_owl2_answer' has no available versions",
    ],
)
def test_a_model_that_is_not_loaded_is_named(scorer, speaker, said):
    speaker.answer = lambda request, context: iter([Exception(said)])
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
def test_the_models_sentence_begins_with_its_status(scorer, speaker, said, error):
    speaker.answer = lambda request, context: iter([Exception(said)])
    with pytest.raises(error, match=r"The (image|question) is odd\.") as caught:
        list(scorer.explain(b"image", "Why?"))
    assert "INVALID_ARGUMENT" not in str(caught.value)
    assert caught.value.request_id == speaker.requests[0].id


def test_a_server_that_is_not_there():
    with Scorer("127.0.0.1:1") as scorer, pytest.raises(ServerUnavailableError):
        list(scorer.explain(b"image", "Why?"))


def test_the_deadline_is_for_the_whole_answer(scorer, speaker):
    def slowly(request, context):
        yield "Well"
        while context.is_active():
            pass

    speaker.answer = slowly
    parts = scorer.explain(b"image", "Why?", timeout_s=0.5)
    assert next(parts).text == "Well"
    with pytest.raises(DeadlineExceededError, match=r"within 0\.5 s"):
        next(parts)


def deadline_s(request: Request) -> float:
    return request.parameters["deadline_unix_us"].int64_param / 1e6


def refuse_expired(clock: Callable[[], float], after: Sequence[str] = ()) -> Answer:
    """Refuse as the served model does, where `clock` gives its Unix time, after some words."""

    def answer(request, context):
        yield from after
        if deadline_s(request) < (server_s := clock()):
            yield Exception(f"DEADLINE_EXCEEDED: late (server clock {round(server_s * 1e6)} us).")
        yield "Well"

    return answer


def test_the_server_is_told_the_deadline(scorer, speaker):
    before = time.time()
    list(scorer.explain(b"image", "Why?", timeout_s=7))
    assert before + 6 < deadline_s(speaker.requests[0]) <= time.time() + 7


@pytest.mark.parametrize(("ahead_s", "requests"), [(3600, 2), (-3600, 1)])
def test_a_server_whose_clock_differs_answers(scorer, speaker, ahead_s, requests):
    speaker.answer = refuse_expired(lambda: time.time() + ahead_s)
    assert list(scorer.explain(b"image", "Why?", timeout_s=5)) == [AnswerPart("Why?", "Well")]
    assert len(speaker.requests) == requests
    assert len({request.id for request in speaker.requests}) == 1
    assert len(list(scorer.explain(b"image", timeout_s=5))) == 2
    assert len(speaker.requests) == requests + 2  # it has learned the difference


def test_asyncio_corrects_the_clock_too(speaker):
    async def ask() -> list[AnswerPart]:
        async with AsyncScorer(speaker.url) as scorer:
            return [part async for part in scorer.explain(b"image", "Why?", timeout_s=5)]

    speaker.answer = refuse_expired(lambda: time.time() + 3600)
    assert asyncio.run(ask()) == [AnswerPart("Why?", "Well")]
    assert len(speaker.requests) == 2


def test_the_clock_that_a_score_taught_is_known(scorer, speaker):
    scorer._core.learns_clock(
        f"DEADLINE_EXCEEDED: late (server clock {round((time.time() + 3600) * 1e6)} us).", Clock(5)
    )
    speaker.answer = refuse_expired(lambda: time.time() + 3600)
    assert len(list(scorer.explain(b"image", "Why?", timeout_s=5))) == 1
    assert len(speaker.requests) == 1


def test_a_server_that_refuses_again_ends_the_answer(scorer, speaker):
    speaker.answer = refuse_expired(lambda: 1e12 + len(speaker.requests) * 1e6)
    with pytest.raises(DeadlineExceededError, match="late"):
        list(scorer.explain(b"image", "Why?"))
    assert len(speaker.requests) == 2


def test_an_answer_that_has_begun_is_not_asked_for_again(scorer, speaker):
    speaker.answer = refuse_expired(lambda: time.time() + 3600, after=["Oh"])
    parts = scorer.explain(b"image", "Why?", timeout_s=5)
    assert next(parts).text == "Oh"
    with pytest.raises(DeadlineExceededError, match="late"):
        next(parts)
    assert len(speaker.requests) == 1


def test_closing_an_asyncio_scorer_ends_its_answers(speaker):
    def answer(request, context):
        yield "Well"
        while context.is_active():
            time.sleep(0.01)

    async def ask() -> None:
        scorer = AsyncScorer(speaker.url)
        parts = scorer.explain(b"image", "Why?")
        await anext(parts)

        async def rest() -> None:
            async for _ in parts:
                pass

        waiting = asyncio.create_task(rest())
        await asyncio.sleep(0)  # it waits now
        await scorer.close()
        with pytest.raises(RequestCancelledError):
            await waiting

    speaker.answer = answer
    asyncio.run(ask())


def test_a_scorer_that_is_closed_meanwhile_asks_nothing(speaker):
    with Scorer(speaker.url) as scorer:
        parts = scorer.explain(b"image", "Why?")
    with pytest.raises(RequestCancelledError):
        next(parts)
    assert not speaker.requests


def test_an_asyncio_scorer_that_is_closed_meanwhile_asks_nothing(speaker):
    async def ask() -> None:
        scorer = AsyncScorer(speaker.url)
        parts = scorer.explain(b"image", "Why?")
        await scorer.close()
        with pytest.raises(RequestCancelledError):
            await anext(parts)

    asyncio.run(ask())
    assert not speaker.requests


@pytest.mark.parametrize("question", ["", " \n"])
@pytest.mark.parametrize("make", [Scorer, AsyncScorer])
def test_what_can_be_known_beforehand_is_not_sent(speaker, make, question):
    scorer = make(speaker.url)
    for arguments in ((question,), ("Why?", {"max_tokens": 0}), ("Why?", {"max_tokens": 513})):
        options = arguments[1] if len(arguments) > 1 else {}
        with pytest.raises(InvalidQuestionError):
            scorer.explain(b"image", arguments[0], **options)
    with pytest.raises(ValueError, match="timeout_s"):
        scorer.explain(b"image", "Why?", timeout_s=0)
    assert not speaker.requests


def test_a_closed_scorer_asks_nothing(speaker):
    with Scorer(speaker.url) as scorer:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        scorer.explain(b"image", "Why?")


def test_the_asyncio_scorer_gives_the_same(scorer, speaker):
    async def ask() -> list[AnswerPart]:
        async with AsyncScorer(speaker.url) as other:
            return [part async for part in other.explain(b"image")]

    assert asyncio.run(ask()) == list(scorer.explain(b"image"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--explain", "--format", "json"), "json has no place for it"),
        (("--question", "Why?", "--output", "scores.csv"), "csv has no place for it"),
        (("--question", " "), "--question is empty"),
    ],
)
def test_the_command_line_refuses_what_cannot_be(tmp_path, speaker, arguments, sentence):
    (tmp_path / "a.png").write_bytes(b"1")
    result = CliRunner().invoke(cli.main, [str(tmp_path), "--url", speaker.url, *arguments])
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not speaker.requests
