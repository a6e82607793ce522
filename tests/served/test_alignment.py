"""Alignment from the real server, against the same network in this process."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from ma_agiqa.images.views import decode, semantic_view
from ma_agiqa.lmm.alignment import Aligner, AlignmentMethod
from ma_agiqa.lmm.answers import language_head
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.lmm.tokenizer import Tokenizer
from ma_agiqa_client import (
    CannotAlignError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidPromptError,
    Scorer,
)
from support.blocking import Blocking
from support.triton_requests import image_tensor

ROOT = Path(__file__).resolve().parents[2]
IMAGES = [file.read_bytes() for file in sorted((ROOT / "examples").glob("*.jpg"))[:6]]
PROMPTS = [
    "a cat",
    "a cup of coffee on a table",
    'the word "sale"\nin red',
    "猫 🐱",
    "x" * 300,
    "y",
]


@pytest.fixture(scope="module")
def scorer(worded):
    with Scorer(worded.grpc_url) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def in_process(mplug_owl2):
    """The alignment of one image and one prompt, computed here by one plain pass."""
    embedder = build_embedder(str(mplug_owl2))
    head = language_head(str(mplug_owl2), embedder.model)
    tokenizer = Tokenizer.of_checkpoint(str(mplug_owl2))
    aligner = Aligner(embedder.model, head, tokenizer, AlignmentMethod())

    @torch.inference_mode()
    def align(image: bytes, prompt: str) -> float:
        view = torch.from_numpy(semantic_view(decode(image), embedder.image_size))
        hidden = embedder.model(embedder.pixels(view[None]), aligner.ask(prompt))[0, -1]
        return float((head @ hidden).softmax(0)[tokenizer.word("Yes")])

    return align


def test_images_with_and_without_prompts_at_once(scorer, in_process):
    expected = [in_process(*one) for one in zip(IMAGES, PROMPTS, strict=True)]
    assert len({round(value, 9) for value in expected}) == len(expected)
    alone = [scorer.score(image) for image in IMAGES]
    assert {score.alignment for score in alone} == {None}
    images, prompts, wanted = (
        IMAGES * 8,
        [*PROMPTS * 4, *[None] * 24],
        [*expected * 4, *[None] * 24],
    )
    order = np.random.default_rng(5).permutation(len(images))
    scores = list(
        scorer.score_many([images[i] for i in order], prompts=[prompts[i] for i in order])
    )
    for place, score in zip(order, scores, strict=True):
        assert score.mos == pytest.approx(alone[place % len(IMAGES)].mos, abs=1e-4)
        assert (score.alignment is None) == (wanted[place] is None)
        if score.alignment is not None:
            assert score.alignment == pytest.approx(wanted[place], rel=1e-3)
            assert score.interval == pytest.approx(alone[place % len(IMAGES)].interval, abs=1e-3)


def test_an_event_loop_gets_the_same(worded, in_process):
    with Blocking(worded.grpc_url) as scorer:
        one = scorer.score(IMAGES[0], prompt=PROMPTS[0], maps=True)
        many = list(scorer.score_many(IMAGES[:2], prompts=PROMPTS[0]))
    assert one.patch_score is not None
    expected = [in_process(image, PROMPTS[0]) for image in IMAGES[:2]]
    assert [s.alignment for s in (one, *many)] == pytest.approx([expected[0], *expected], rel=1e-3)


def ask_triton(server, prompts, images=IMAGES[:1], outputs=("ALIGNMENT", "SCORE")):
    """Send one request by Triton's own client."""
    text = InferInput("PROMPT_TEXT", [len(prompts), 1], "BYTES")
    text.set_data_from_numpy(np.array([[prompt] for prompt in prompts], np.object_))
    asked = [InferRequestedOutput(name) for name in outputs] or None
    with InferenceServerClient(server.grpc_url) as client:
        result = client.infer("ma_agiqa", [image_tensor(*images), text], outputs=asked)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def test_a_request_of_several_images_has_a_prompt_for_each(worded, in_process):
    texts = [prompt.encode() for prompt in PROMPTS]
    given = ask_triton(worded, texts, IMAGES)["ALIGNMENT"]
    assert given.shape == (len(IMAGES), 1)
    expected = [in_process(*one) for one in zip(IMAGES, PROMPTS, strict=True)]
    assert given.ravel().tolist() == pytest.approx(expected, rel=1e-3)


def test_what_is_not_asked_for_is_not_answered(worded, scorer):
    with InferenceServerClient(worded.grpc_url) as client:
        given = client.infer("ma_agiqa", [image_tensor(IMAGES[0])]).get_response().outputs
    assert {"SCORE", "PATCH_SCORE"} <= {output.name for output in given}
    assert "ALIGNMENT" not in {output.name for output in given}
    assert set(ask_triton(worded, [b"a cat"], outputs=["SCORE"])) == {"SCORE"}


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("é" * 600, "The prompt has 1,2.. tokens; at most 1,000"),
        ("a" * 20_000, "The prompt has 20,000 characters; at most 10,000"),
    ],
)
def test_a_prompt_that_is_too_long_fails_alone(scorer, prompt, sentence):
    with pytest.raises(InvalidPromptError, match=sentence):
        scorer.score(IMAGES[0], prompt=prompt)
    outcomes = list(scorer.score_many(IMAGES[:3], prompts=["a cat", prompt, None]))
    kinds = [type(outcome.error) for outcome in outcomes]
    assert kinds == [type(None), InvalidPromptError, type(None)]


def test_the_image_is_still_checked(scorer):
    with pytest.raises(InvalidImageError, match="not an image"):
        scorer.score(b"no image", prompt="a cat")
    with pytest.raises(DeadlineExceededError):
        scorer.score(IMAGES[0], prompt="a cat", timeout_s=1e-6)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([b""], "The prompt is empty"),
        ([b"\xff"], "The prompt is not UTF-8"),
        ([b"a", b" "], r"The prompt is empty.*\(PROMPT_TEXT\[1\]\)"),
    ],
)
def test_the_server_checks_prompts_itself(worded, prompts, sentence):
    with pytest.raises(InferenceServerException, match=sentence) as caught:
        ask_triton(worded, prompts, IMAGES[: len(prompts)])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    for inside in ("Traceback", ".py", str(ROOT)):
        assert inside not in str(caught.value)


def test_the_card_says_how(scorer):
    asked = scorer.model().alignment
    assert (asked.question, asked.answer, asked.against) == (
        AlignmentMethod.question,
        "Yes",
        None,
    )


def test_the_demo_says_that_it_cannot(server, score_py):
    with Scorer(server.grpc_url) as scorer:
        with pytest.raises(CannotAlignError, match="random weights and no tokenizer"):
            scorer.score(IMAGES[0], prompt="a cat")
        prompted, plain = scorer.score_many(IMAGES[:2], prompts=["a cat", None])
        assert type(prompted.error) is CannotAlignError
        assert plain.mos is not None
    images = ROOT / "examples"
    done = score_py(images, "--url", server.grpc_url, "--prompts", r"([a-z]+)_[a-z]+\.jpg$")
    assert done.exit_code == 6
    assert "The demo's language model has random weights" in done.stderr
