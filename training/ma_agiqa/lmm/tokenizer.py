"""Questions to the LMM about an image, and its answers, as token ids and as text (paper Fig. 5).

The prompt is the one that the paper's embeddings come from:

    USER: {question}\\n<image> ASSISTANT:

Nothing here imports torch, so that the process that streams answers stays small.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import sentencepiece
from huggingface_hub import hf_hub_download

from ma_agiqa.errors import CannotAnswerError, QuestionError

QUESTIONS: Mapping[str, str] = {
    "semantic": "Evaluate the input image to determine if its quality is compromised due to a lack "
    "of meaningful semantic content.",
    "coherence": "Evaluate if the image quality is compromised due to violations of coherence.",
}
"""The paper's two questions (§3.2)."""

MAX_QUESTION_TOKENS = 1000
"""Longest question; with the image (65) and an answer it fits LLaMA-2's 4096 positions."""

MAX_QUESTION_CHARACTERS = 10 * MAX_QUESTION_TOKENS
"""Longer text is refused before it is split into tokens."""

MAX_ANSWER_TOKENS = 512
"""Longest answer in tokens."""

IMAGE_ID = -200
"""Stands for the image in a list of token ids; `ma_agiqa.lmm.mplug_owl2.IMAGE_TOKEN_ID`."""

ASSISTANT_IDS = (29871, 319, 1799, 9047, 13566, 29901)
"""The prompt's end, " ASSISTANT:", under the LLaMA-2 tokenizer."""

DEMO_CANNOT_ANSWER = (
    "The demo's language model has random weights and no tokenizer, so it cannot answer "
    "questions. Serve the paper's mPLUG-Owl2 to have images explained, or compared with prompts."
)

_DEMO = "demo"  # `ma_agiqa.lmm.sources.DEMO_EMBEDDER`, whose module imports torch
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_EMPTY = {
    "question": "Ask something about the image.",
    "prompt": "Send the text that the image was made from, or none for the score alone.",
}


class Tokenizer:
    """The LLaMA-2 tokenizer that the checkpoint carries.

    It is run by SentencePiece itself: the official token ids are those of its legacy behavior,
    which is SentencePiece's own. Text can never become a control token or the image.
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        """Read `tokenizer.model`.

        Raises:
            CannotAnswerError: it cannot be read, or is not LLaMA-2's.
        """
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=os.fspath(file))
        except (OSError, RuntimeError, TypeError) as error:
            raise CannotAnswerError(
                "The language model's tokenizer.model cannot be read, so it cannot answer. "
                "Download the checkpoint again."
            ) from error
        end = tuple(self._pieces.encode(" ASSISTANT:"))
        if end != ASSISTANT_IDS:
            raise CannotAnswerError(
                f"The tokenizer writes ' ASSISTANT:' as {list(end)}, LLaMA-2's as "
                f"{list(ASSISTANT_IDS)}: it is not the language model's tokenizer, so the "
                "model cannot answer with it. Download the checkpoint again."
            )

    @classmethod
    def of_checkpoint(cls, source: str) -> "Tokenizer":
        """Read the tokenizer that comes with mPLUG-Owl2's weights.

        Args:
            source: source of the weights, as `ma_agiqa.lmm.sources.build_embedder` takes it.

        Raises:
            CannotAnswerError: the demo, whose weights are random; or there is no tokenizer.
        """
        if source == _DEMO:
            raise CannotAnswerError(DEMO_CANNOT_ANSWER)
        if (folder := Path(source)).is_dir():
            return cls(folder / "tokenizer.model")
        try:
            return cls(hf_hub_download(source, "tokenizer.model"))
        except CannotAnswerError:
            raise
        except Exception as error:  # the hub's client raises errors of every kind
            raise CannotAnswerError(
                "The language model's tokenizer.model cannot be downloaded, so it cannot answer. "
                "Download the whole checkpoint once on a machine with a network."
            ) from error

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self._pieces.eos_id()

    def prompt(self, question: str) -> list[int]:
        """Put a question into the prompt.

        Args:
            question: free text.

        Returns:
            Token ids, with `IMAGE_ID` once.

        Raises:
            QuestionError: nothing but white space, or more than `MAX_QUESTION_CHARACTERS`
                characters or `MAX_QUESTION_TOKENS` tokens.
        """
        ids = self._encode("USER: ", question, "\n", "question")
        return [self._pieces.bos_id(), *ids, IMAGE_ID, *ASSISTANT_IDS]

    def about_prompt(self, before: str, prompt: str, after: str) -> list[int]:
        """Put a question about the prompt of an image behind it, as mPLUG-Owl2's own examples do.

            USER: <image>{before}{prompt}{after} ASSISTANT:

        Args:
            before, after: the question around the prompt.
            prompt: the text that the image was made from.

        Returns:
            Token ids, with `IMAGE_ID` once; those up to it are the same for every question.

        Raises:
            QuestionError: as in `prompt`, with "the prompt" in place of "the question".
        """
        ids = self._encode(before, prompt, f"{after} ASSISTANT:", "prompt")
        return [self._pieces.bos_id(), *self._pieces.encode("USER: "), IMAGE_ID, *ids]

    def word(self, text: str) -> int:
        """The token that an answer of one word begins with.

        Raises:
            CannotAnswerError: the word takes several tokens.
        """
        ids = self._pieces.encode(text)
        if len(ids) != 1:
            raise CannotAnswerError(
                f"The tokenizer writes the answer {text!r} as {len(ids)} tokens; expected one. "
                "Export with another --alignment-answer."
            )
        return int(ids[0])

    def _encode(self, before: str, text: str, after: str, what: str) -> list[int]:
        """Split a text, and what is around it, into tokens; `what` names the text in errors."""
        text = text.strip()
        if not text:
            raise QuestionError(f"The {what} is empty. {_EMPTY[what]}")
        if len(text) > MAX_QUESTION_CHARACTERS:
            raise QuestionError(
                f"The {what} has {len(text):,} characters; at most "
                f"{MAX_QUESTION_CHARACTERS:,} are accepted. Shorten it."
            )
        ids: list[int] = self._pieces.encode(f"{before}{text}{after}")
        if len(ids) > MAX_QUESTION_TOKENS:
            raise QuestionError(
                f"The {what} has {len(ids):,} tokens; at most {MAX_QUESTION_TOKENS:,} are "
                "accepted. Shorten it."
            )
        return ids

    def text(self, ids: list[int]) -> str:
        """Write token ids as text."""
        return self._pieces.decode(ids)


class AnswerText:
    """An answer that grows token by token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """Add a token; give the new text, which is empty while a character is incomplete."""
        self._ids.append(token)
        text = self._tokenizer.text(self._ids)
        return "" if text.endswith(_INCOMPLETE) else self._take(text)

    def rest(self) -> str:
        """The text that is left when no token follows."""
        return self._take(self._tokenizer.text(self._ids))

    def _take(self, text: str) -> str:
        new = text[self._given :]
        self._given = len(text)
        return new
