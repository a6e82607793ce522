"""Prompts and answers as token ids and text."""

import subprocess
import sys

import pytest

from ma_agiqa.errors import CannotAnswerError, QuestionError
from ma_agiqa.lmm.embedder import PROMPTS
from ma_agiqa.lmm.sources import DEMO_EMBEDDER
from ma_agiqa.lmm.tokenizer import (
    ASSISTANT_IDS,
    IMAGE_ID,
    MAX_QUESTION_TOKENS,
    QUESTIONS,
    AnswerText,
    Tokenizer,
)
from support.llama_tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("owl")))


def test_the_end_is_that_of_the_papers_prompts():
    assert set(QUESTIONS) == set(PROMPTS)
    for ids in PROMPTS.values():
        assert ids[-len(ASSISTANT_IDS) - 1 :] == (IMAGE_ID, *ASSISTANT_IDS)


def test_a_prompt_is_user_question_image_assistant(tokenizer):
    ids = tokenizer.prompt("  Is it sharp?\n ")
    assert ids[0] == 1  # the token that begins every text
    assert ids.count(IMAGE_ID) == 1
    place = ids.index(IMAGE_ID)
    assert tokenizer.text(ids[1:place]) == "USER: Is it sharp?\n"
    assert tuple(ids[place + 1 :]) == ASSISTANT_IDS


@pytest.mark.parametrize("question", ["</s>", "<s> hi <unk>", "<|image|>", "-200", "<0x0A>", "\0"])
def test_text_never_becomes_a_control_token(tokenizer, question):
    ids = tokenizer.prompt(question)
    assert ids.count(IMAGE_ID) == 1
    assert all(id_ > 2 or id_ == IMAGE_ID for id_ in ids[1:])


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused(tokenizer, question):
    with pytest.raises(QuestionError, match="is empty"):
        tokenizer.prompt(question)


def test_a_long_question_is_refused(tokenizer):
    assert len(tokenizer.prompt("é" * 490)) < MAX_QUESTION_TOKENS + 8
    with pytest.raises(QuestionError, match=r"has 1,0\d\d tokens; at most 1,000 are accepted"):
        tokenizer.prompt("é" * 500)
    with pytest.raises(QuestionError, match="has 10,001 characters; at most 10,000"):
        tokenizer.prompt("a" * 10_001)


@pytest.mark.parametrize("text", ["Yes: it is.", "größer: 好的 🙂!", "a\n b", " x"])
def test_an_answer_in_pieces_is_the_answer(tokenizer, text):
    ids = tokenizer._pieces.encode(text)
    answer = AnswerText(tokenizer)
    pieces = [answer.add(id_) for id_ in ids]
    assert "".join(pieces) == tokenizer.text(ids)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert answer.rest() == ""


def test_an_answer_cut_within_a_character_gives_what_there_is(tokenizer):
    answer = AnswerText(tokenizer)
    ids = tokenizer._pieces.encode("ja 🙂")
    assert "".join(answer.add(id_) for id_ in ids[:-1]) == "ja "
    assert set(answer.rest()) == {"\N{REPLACEMENT CHARACTER}"}


def test_a_checkpoint_without_a_usable_tokenizer_cannot_answer(tmp_path):
    with pytest.raises(CannotAnswerError, match="random weights"):
        Tokenizer.of_checkpoint(DEMO_EMBEDDER)
    with pytest.raises(CannotAnswerError, match="cannot be read") as caught:
        Tokenizer.of_checkpoint(str(tmp_path))
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(CannotAnswerError, match="cannot be read"):
        Tokenizer.of_checkpoint(str(tmp_path))
    write_tokenizer(tmp_path, like_llama=False)
    with pytest.raises(CannotAnswerError, match="is not the language model's"):
        Tokenizer.of_checkpoint(str(tmp_path))
    write_tokenizer(tmp_path)
    assert Tokenizer.of_checkpoint(str(tmp_path)).end_id == 2


def test_the_module_loads_no_torch():
    code = "import sys, ma_agiqa.lmm.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
