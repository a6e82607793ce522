"""Greedy answers against the official logits, and against a plain loop that keeps nothing."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ma_agiqa.errors import CannotAnswerError, ConfigError, QuestionError
from ma_agiqa.lmm.answers import Answerer, language_head
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import IMAGE_TOKEN_ID, MPlugOwl2Model
from ma_agiqa.lmm.tokenizer import IMAGE_ID
from support.answers import generate
from support.published_weights import write_mplug_owl2

PROMPTS = ("semantic", "coherence")
TOKENS = 24


@pytest.fixture(scope="module")
def model(tiny_owl) -> MPlugOwl2Model:
    return MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"])


@pytest.fixture
def answerer(model, tiny_owl) -> Answerer:
    return make(model, tiny_owl)


def make(model: MPlugOwl2Model, tiny_owl: dict, kept: int = 2) -> Answerer:
    embedder = PromptEmbedder(model, tiny_owl["input_ids"])
    return Answerer(embedder, tiny_owl["state"]["lm_head.weight"].to(model.dtype), kept)


@pytest.fixture(scope="module")
def view() -> torch.Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (112, 112, 3), dtype=torch.uint8, generator=seeded)


@torch.inference_mode()
def plain_logits(model, tiny_owl, pixels: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The next token's logits (vocabulary,), by one pass over everything."""
    hidden = model(pixels, ids)[0, -1]
    return F.linear(hidden, tiny_owl["state"]["lm_head.weight"])


def plain_answer(model, tiny_owl, pixels: torch.Tensor, ids: list[int], count: int) -> list[int]:
    """The answer's tokens, each by one pass over the whole sequence."""
    answer: list[int] = []
    for _ in range(count):
        answer.append(int(plain_logits(model, tiny_owl, pixels, ids + answer).argmax()))
    return answer


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_first_token_is_the_official_one(model, tiny_owl, monkeypatch, prompt):
    answerer = make(model, tiny_owl)
    pixels, official = (
        tiny_owl["reference"][name] for name in ("pixel_values", f"{prompt}_logits_last_token")
    )
    # The reference holds pixel values, which no uint8 view gives exactly.
    monkeypatch.setattr(PromptEmbedder, "pixels", lambda self, images: images)
    for image, logits in zip(pixels, official, strict=True):
        ids = tiny_owl["input_ids"][prompt]
        assert answerer.next_token(image, ids) == int(logits.argmax())
        ours = plain_logits(model, tiny_owl, image[None], ids)
        torch.testing.assert_close(ours, logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prompt", [*PROMPTS, "own"])
def test_an_answer_equals_a_loop_over_the_full_sequence(answerer, model, tiny_owl, view, prompt):
    ids = {**tiny_owl["input_ids"], "own": [1, 5, 77, IMAGE_ID, 6]}[prompt]
    pixels = answerer._embedder.pixels(view[None])
    expected = plain_answer(model, tiny_owl, pixels, ids, TOKENS)
    assert list(generate(answerer, view, ids, TOKENS)) == expected
    assert len(set(expected)) > 3  # or a constant would pass too


def test_answers_that_take_turns_do_not_mix(model, tiny_owl, view):
    views = [view, view.flip(0), 255 - view]
    ids = tiny_owl["input_ids"]["coherence"]
    alone = [list(generate(make(model, tiny_owl), each, ids, 12)) for each in views]
    for kept in (0, 1, 2, 3):  # with fewer than three, some are computed again
        answerer = make(model, tiny_owl, kept)
        turns = zip(*(generate(answerer, each, ids, 12) for each in views), strict=True)
        assert [list(answer) for answer in zip(*turns, strict=True)] == alone
        assert len(answerer._kept) == kept


def test_a_kept_answer_costs_one_position_per_token(answerer, model, tiny_owl, view, monkeypatch):
    lengths = []
    decode = MPlugOwl2Model.decode

    def counting(self, embeddings, *arguments, **options):
        lengths.append(embeddings.shape[1])
        return decode(self, embeddings, *arguments, **options)

    ids = tiny_owl["input_ids"]["semantic"]
    monkeypatch.setattr(MPlugOwl2Model, "decode", counting)
    list(generate(answerer, view, ids, 5))
    assert lengths == [len(ids) - 1 + model.config.num_image_tokens, 1, 1, 1, 1]


def test_an_answer_ends_at_the_end_token_and_is_forgotten(tiny_owl, view):
    model = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"])
    ids = tiny_owl["input_ids"]["semantic"]
    answer = list(generate(make(model, tiny_owl), view, ids, 8))
    model.config.eos_token_id = answer[4]
    answerer = make(model, tiny_owl)
    assert list(generate(answerer, view, ids, 8)) == answer[:4]
    assert not answerer._kept


@pytest.mark.parametrize(
    ("ids", "error", "sentence"),
    [
        ([1, 2, 3], ConfigError, "must hold the image"),
        ([1, IMAGE_ID, 32000], QuestionError, "not among the model's 32,000"),
        ([1, IMAGE_ID] + [5] * 500, QuestionError, "take 518 positions; the model has 512"),
    ],
)
def test_impossible_prompts_are_refused(answerer, view, ids, error, sentence):
    with pytest.raises(error, match=sentence):
        answerer.next_token(view, ids)


def test_half_precision_answers(tiny_owl, view):
    half = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"]).bfloat16()
    answer = list(generate(make(half, tiny_owl), view, tiny_owl["input_ids"]["semantic"], 6))
    assert len(answer) == 6


def test_the_head_comes_from_the_shard_that_holds_it(tmp_path, model, tiny_owl):
    write_mplug_owl2(tmp_path, tiny_owl["config"], tiny_owl["state"])
    head = language_head(str(tmp_path), model)
    expected = tiny_owl["state"]["lm_head.weight"].half().float()
    torch.testing.assert_close(head, expected, atol=0, rtol=0)


def test_the_head_comes_from_one_file(tmp_path, model, tiny_owl):
    head = tiny_owl["state"]["lm_head.weight"].contiguous()
    save_file({"lm_head.weight": head}, tmp_path / "model.safetensors")
    torch.testing.assert_close(language_head(str(tmp_path), model), head, atol=0, rtol=0)


def test_a_checkpoint_without_words_cannot_answer(tmp_path, model):
    with pytest.raises(CannotAnswerError, match="random weights"):
        language_head("demo", model)
    with pytest.raises(CannotAnswerError, match=r"lm_head\.weight.* cannot be read") as caught:
        language_head(str(tmp_path), model)
    assert str(tmp_path) not in str(caught.value)
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CannotAnswerError, match="cannot be read"):
        language_head(str(tmp_path), model)
    save_file({"lm_head.weight": torch.ones(3, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(CannotAnswerError, match=r"shape \(3, 2\) instead of \(32000, 128\)"):
        language_head(str(tmp_path), model)


def test_the_image_has_one_id():
    assert IMAGE_ID == IMAGE_TOKEN_ID
