"""Alignment against the official logits, and against one plain pass per image and prompt."""

import pytest
import torch
import torch.nn.functional as F

from ma_agiqa.errors import CannotAnswerError, ConfigError, QuestionError
from ma_agiqa.lmm.alignment import Aligner, AlignmentMethod
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.tokenizer import IMAGE_ID, Tokenizer
from support.llama_tokenizer import NO, YES, write_tokenizer

WORDS = ("a", "photograph", "of", "two", "grey", "cats", "on", "a", "red", "sofa", "by", "night")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def embedder(tiny_owl) -> PromptEmbedder:
    model = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"])
    return PromptEmbedder(model, tiny_owl["input_ids"])


@pytest.fixture(scope="module")
def make(embedder, tokenizer, tiny_owl):
    head = tiny_owl["state"]["lm_head.weight"]

    def make(**method: str) -> Aligner:
        return Aligner(embedder.model, head, tokenizer, AlignmentMethod(**method))

    return make


@pytest.mark.parametrize("prompt", ["semantic", "coherence"])
def test_logits_are_the_official_ones(make, embedder, tiny_owl, prompt):
    pixels, official = (
        tiny_owl["reference"][name] for name in ("pixel_values", f"{prompt}_logits_last_token")
    )
    tokens = embedder.model.encode_images(pixels)
    logits = make().logits(tokens, [tiny_owl["input_ids"][prompt]] * len(pixels))
    torch.testing.assert_close(logits, official, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[:, YES], official[:, YES], atol=1e-4, rtol=0)


@torch.inference_mode()
def plain(embedder, tiny_owl, view: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The first token's logits, by one pass over one image and its whole question."""
    hidden = embedder.model(embedder.pixels(view[None]), ids)[0, -1]
    return F.linear(hidden, tiny_owl["state"]["lm_head.weight"])


@pytest.mark.parametrize("batch", [1, 11])
def test_no_prompt_depends_on_the_others_of_its_batch(make, embedder, tiny_owl, batch):
    seeded = torch.Generator().manual_seed(batch)
    views = torch.randint(0, 256, (batch, 112, 112, 3), dtype=torch.uint8, generator=seeded)
    lengths = torch.randint(1, 12, (batch,), generator=seeded).tolist()
    aligner = make()
    questions = [aligner.ask(" ".join(WORDS[:length])) for length in lengths]
    assert batch == 1 or len({len(ids) for ids in questions}) > 1
    embeddings, tokens = embedder.with_tokens(views)
    alone = [plain(embedder, tiny_owl, *one) for one in zip(views, questions, strict=True)]
    logits = aligner.logits(tokens, questions)
    torch.testing.assert_close(logits, torch.stack(alone), atol=1e-4, rtol=0)
    expected = torch.stack(alone).softmax(1)[:, YES : YES + 1]
    torch.testing.assert_close(aligner(tokens, questions), expected, atol=1e-6, rtol=1e-3)
    assert batch == 1 or logits[:, YES].std() > 1e-3  # or a constant would pass too
    for name, values in embedder(views).items():
        torch.testing.assert_close(embeddings[name], values, atol=1e-5, rtol=0)


def test_half_precision_does_not_round_the_answer(tokenizer, tiny_owl):
    model = MPlugOwl2Model.from_official(tiny_owl["build"](), tiny_owl["state"]).bfloat16()
    embedder = PromptEmbedder(model, tiny_owl["input_ids"])
    head = tiny_owl["state"]["lm_head.weight"].bfloat16()
    aligner = Aligner(model, head, tokenizer, AlignmentMethod())
    _, tokens = embedder.with_tokens(torch.full((2, 112, 112, 3), 90, dtype=torch.uint8))
    logits = aligner.logits(tokens, [aligner.ask("a cat"), aligner.ask("a red cat")])
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9


def test_two_answers_share_the_probability(make, embedder):
    view = torch.full((1, 112, 112, 3), 90, dtype=torch.uint8)
    _, tokens = embedder.with_tokens(view)
    aligner = make(question="{prompt}: yes?", answer="Yes", against="No")
    questions = [aligner.ask("a cat")]
    logits = aligner.logits(tokens, questions)[0]
    expected = (logits[YES] - logits[NO]).sigmoid()
    torch.testing.assert_close(aligner(tokens, questions)[0, 0], expected)
    opposite = make(question="{prompt}: yes?", answer="No", against="Yes")
    torch.testing.assert_close(opposite(tokens, questions)[0, 0], 1 - expected)


def test_the_question_comes_after_the_image_as_in_the_models_own_examples(make, tokenizer):
    ids = make(question='Is it "{prompt}"?').ask("  a {prompt} <image> </s>\n")
    place = ids.index(IMAGE_ID)
    assert ids[0] == 1
    assert tokenizer.text(ids[1:place]) == "USER: "
    assert tokenizer.text(ids[place + 1 :]) == 'Is it "a {prompt} <image> </s>"? ASSISTANT:'
    assert ids.count(IMAGE_ID) == 1  # no text becomes the image
    assert 2 not in ids  # or the end


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "The prompt is empty"),
        (" \n", "The prompt is empty"),
        ("é" * 600, "The prompt has 1,... tokens; at most 1,000"),
        ("a" * 20_000, "The prompt has 20,000 characters; at most 10,000"),
        ("é" * 230, "take 5.. positions; the model has 512"),
    ],
)
def test_prompts_have_limits(make, prompt, sentence):
    with pytest.raises(QuestionError, match=sentence):
        make().ask(prompt)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ({"question": "Is it?"}, "has {prompt} 0 times"),
        ({"question": "{prompt}{prompt}"}, "has {prompt} 2 times"),
        ({"answer": ""}, "expected words"),
        ({"against": ""}, "expected words"),
    ],
)
def test_impossible_methods_are_refused(method, sentence):
    with pytest.raises(ConfigError, match=sentence):
        AlignmentMethod(**method)


def test_an_answer_is_one_token(make):
    with pytest.raises(CannotAnswerError, match=r"'Certainly' as \d+ tokens; expected one"):
        make(answer="Certainly")
    assert AlignmentMethod.from_json(AlignmentMethod(against="No").to_json()).against == "No"
