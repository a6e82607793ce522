"""Images with prompts: what is sent, what comes back, and how failures are called."""

import grpc
import numpy as np
import pandas as pd
import pytest

from ma_agiqa_client import (
    Alignment,
    CannotAlignError,
    InvalidImageError,
    InvalidPromptError,
    ModelCard,
    Score,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client._core import protocol
from support.example_card import ALIGNMENT, PARAMETERS
from support.scripted_server import ensemble_config, numbers

STATUS = grpc.StatusCode


@pytest.fixture
def scorer(either):
    return either


def test_a_prompt_travels_with_its_image(scorer, scripted):
    score = scorer.score(b"7", prompt=' "Zoë"\n猫')
    request = scripted.requests[0]
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("IMAGE", "BYTES", [1, 1]),
        ("PROMPT_TEXT", "BYTES", [1, 1]),
    ]
    text = ' "Zoë"\n猫'.encode()
    assert request.raw_input_contents[1] == len(text).to_bytes(4, "little") + text
    assert "ALIGNMENT" in [output.name for output in request.outputs]
    assert score.alignment == pytest.approx(0.08)
    assert score.mos == 7


def test_without_a_prompt_nothing_is_sent_or_asked_for(scorer, scripted):
    assert scorer.score(b"7").alignment is None
    request = scripted.requests[0]
    assert [tensor.name for tensor in request.inputs] == ["IMAGE"]
    assert "ALIGNMENT" not in [output.name for output in request.outputs]


@pytest.mark.parametrize("ordered", [True, False])
def test_every_image_gets_its_own_prompt(scorer, ordered):
    prompts = [None if number % 3 == 0 else "x" * number for number in range(40)]
    scores = scorer.score_many(numbers(40), prompts=iter(prompts), ordered=ordered)
    found = {score.mos: score.alignment for score in scores}
    assert found == {
        number: None if prompt is None else pytest.approx(len(prompt) / 100)
        for number, prompt in enumerate(prompts)
    }


def test_one_prompt_for_all(scorer):
    scores = scorer.score_many(numbers(3), prompts="a cat")
    assert [score.alignment for score in scores] == pytest.approx([0.05] * 3)
    ranked = scorer.rank(numbers(3), prompts=["a", "bb", "ccc"])
    assert [(one.mos, one.alignment) for one in ranked if isinstance(one, Score)] == [
        (2, pytest.approx(0.03)),
        (1, pytest.approx(0.02)),
        (0, pytest.approx(0.01)),
    ]


@pytest.mark.parametrize("column", [np.array, pd.Series])
def test_prompts_may_be_a_column_of_a_table(scorer, column):
    scores = scorer.score_many(numbers(2), prompts=column(["a", "bb"]))
    assert [score.alignment for score in scores] == pytest.approx([0.01, 0.02])


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [(["a"], "There are 1 prompts for more images"), (["a"] * 4, "more prompts than images")],
)
def test_numbers_of_images_and_prompts_must_agree(scorer, prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        list(scorer.score_many(numbers(3), prompts=prompts))


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "The prompt is empty"),
        (" \n", "The prompt is empty"),
        (3.5, "The prompt is of type float"),
        ("\ud800", "cannot be written in UTF-8"),
    ],
)
def test_a_bad_prompt_fails_its_image_alone(scorer, scripted, prompt, sentence):
    with pytest.raises(InvalidPromptError, match=sentence) as caught:
        scorer.score(b"1", prompt=prompt)
    assert caught.value.request_id
    assert not scripted.requests
    bad, good = scorer.score_many(numbers(2), prompts=[prompt, "a"])
    assert type(bad.error) is InvalidPromptError
    assert good.alignment == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (STATUS.INVALID_ARGUMENT, "The prompt has 9 tokens.", InvalidPromptError),
        (STATUS.INVALID_ARGUMENT, "The image is odd.", InvalidImageError),
        (STATUS.UNIMPLEMENTED, "It has no words.", CannotAlignError),
    ],
)
def test_refusals_have_types(scorer, scripted, status, said, error):
    scripted.check = lambda request, context: context.abort(status, f"in ensemble 'x', {said}")
    with pytest.raises(error, match=f"^{said}$"):
        scorer.score(b"1", prompt="a cat")
    if status == STATUS.UNIMPLEMENTED:
        with pytest.raises(WrongModelError):
            scorer.score(b"1")


def test_an_image_with_a_prompt_is_sent_again(scorer, scripted, no_waiting):
    def check(request, context):
        if len(scripted.requests) < 3:
            context.abort(STATUS.UNAVAILABLE, "busy")

    scripted.check = check
    assert scorer.score(b"1", prompt="a cat").alignment == pytest.approx(0.05)
    assert [request.raw_input_contents[1][4:] for request in scripted.requests] == [b"a cat"] * 3
    scripted.check = lambda request, context: context.abort(STATUS.UNAVAILABLE, "busy")
    with pytest.raises(ServerUnavailableError):
        scorer.score(b"1", prompt="a cat")


def test_a_server_of_an_earlier_export_scores_without_prompts(scorer, scripted):
    del scripted.card["alignment"]
    with pytest.raises(CannotAlignError, match=r"Export it again, or leave the prompts out"):
        scorer.score(b"1", prompt="a cat")
    assert not scripted.requests
    assert scorer.score(b"1").mos == 1
    first, second = scorer.score_many(numbers(2), prompts=["a", None])
    assert type(first.error) is CannotAlignError
    assert second.mos == 1


def test_the_card_says_how_images_are_compared():
    card = PARAMETERS | {"alignment": ALIGNMENT}
    asked = Alignment(question='Is it "{prompt}"?', answer="Yes")
    assert protocol.read_card(ensemble_config(card)).alignment == asked
    assert protocol.read_card(ensemble_config(card, outputs=["SCORE", "GATE"])).alignment is None
    assert ModelCard.from_parameters(PARAMETERS).alignment is None
