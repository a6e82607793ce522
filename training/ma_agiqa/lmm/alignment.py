"""Whether an image shows what its prompt says: the probability that the LMM answers "Yes".

The method is VQAScore (Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text
Generation", ECCV 2024) with mPLUG-Owl2 in place of the authors' model. It was not validated against
people here.

The image comes before the question, so a batch has one prefix, and its images are at the same
positions whatever the prompts are. Shorter questions are padded on the right, where causality hides
the padding.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.errors import ConfigError, QuestionError
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.decoder import Segment
from ma_agiqa.lmm.tokenizer import Tokenizer

_PLACE = "{prompt}"
_TOGETHER = 8
"""Questions in one pass; they are of similar lengths, so that little of it is padding."""
_HEAD_ROWS = 4096  # of the language head that are in float32 at a time: 67 MB at the paper's width


@dataclass(frozen=True)
class AlignmentMethod:
    """How an image is compared with its prompt.

    Attributes:
        question: what the LMM is asked; `{prompt}` stands for the prompt.
        answer: the word whose probability is the alignment.
        against: the word that it is compared with: the alignment is then P(answer) / (P(answer) +
            P(against)). None: the probability is that among all words, as in VQAScore.

    Raises:
        ConfigError: the question does not have the prompt exactly once, or a word is empty.
    """

    question: str = 'Does this figure show "{prompt}"? Please answer yes or no.'
    answer: str = "Yes"
    against: str | None = None

    def __post_init__(self) -> None:
        if self.question.count(_PLACE) != 1:
            raise ConfigError(
                f"The question {self.question!r} has {_PLACE} {self.question.count(_PLACE)} times; "
                "expected it once, where the prompt belongs."
            )
        if not self.answer or self.against == "":
            raise ConfigError(
                f"The answers are {self.answer!r} and {self.against!r}; expected words, such as "
                "Yes and No."
            )

    @classmethod
    def from_json(cls, text: str) -> "AlignmentMethod":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Write the method as a parameter of the served model."""
        return json.dumps(asdict(self))

    def ask(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """Put a prompt into the question.

        Returns:
            Token ids, with the image (-200) once.

        Raises:
            QuestionError: the prompt is empty or too long.
        """
        before, after = self.question.split(_PLACE)
        return tokenizer.about_prompt(before, prompt, after)


class Aligner:
    """Compares images with their prompts, by the embedder's own weights and the language head.

    Args:
        model: mPLUG-Owl2, whose image tokens are given.
        head: `lm_head.weight`, (vocabulary, hidden), in the model's dtype and on its device.
        tokenizer: that of the model.
        method: how to compare.

    Raises:
        CannotAnswerError: an answer of the method takes several tokens.
    """

    def __init__(
        self, model: MPlugOwl2Model, head: Tensor, tokenizer: Tokenizer, method: AlignmentMethod
    ) -> None:
        self._model, self._head = model, head
        self._tokenizer, self._method = tokenizer, method
        words = [method.answer, *([method.against] if method.against else [])]
        self._words = [tokenizer.word(word) for word in words]

    def ask(self, prompt: str) -> list[int]:
        """Put a prompt into the question: token ids, with the image (-200) once.

        Raises:
            QuestionError: the prompt is empty, or too long for the tokenizer or for the model.
        """
        ids = self._method.ask(self._tokenizer, prompt)
        config = self._model.config
        positions = len(ids) - 1 + config.num_image_tokens
        if positions > config.max_position_embeddings:
            raise QuestionError(
                f"The prompt, the question and the image take {positions:,} positions; the model "
                f"has {config.max_position_embeddings:,}. Shorten the prompt."
            )
        return ids

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, questions: Sequence[Sequence[int]]) -> Tensor:
        """Compare a batch of images, each with its prompt.

        Args:
            tokens: the images' tokens, (B, queries + 1, hidden), of `PromptEmbedder.with_tokens`.
            questions: B lists of token ids, of `ask`.

        Returns:
            Alignments from 0 to 1, float32 (B, 1). Except for rounding, none depends on the rest of
            its batch.
        """
        logits = self.logits(tokens, questions)
        if self._method.against:
            logits = logits[:, self._words]
        place = 0 if self._method.against else self._words[0]
        return logits.softmax(dim=1)[:, place : place + 1]

    @torch.inference_mode()
    def logits(self, tokens: Tensor, questions: Sequence[Sequence[int]]) -> Tensor:
        """Predict the first token of each answer: float32 logits (B, vocabulary).

        Args:
            tokens, questions: as for a call; the questions are equal up to the image.
        """
        order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
        logits = tokens.new_empty(len(questions), len(self._head), dtype=torch.float32)
        for start in range(0, len(order), _TOGETHER):
            some = order[start : start + _TOGETHER]
            logits[some] = self._some_logits(tokens[some], [questions[index] for index in some])
        return logits

    def _some_logits(self, tokens: Tensor, questions: Sequence[Sequence[int]]) -> Tensor:
        """The same for questions of similar lengths, in one pass."""
        model, (batch, image_tokens) = self._model, tokens.shape[:2]
        before, after = zip(*map(model.split_prompt, questions), strict=True)
        prefix = len(before[0])
        rows = torch.nn.utils.rnn.pad_sequence(list(after), batch_first=True)  # (B, longest)
        sequence = torch.cat(
            [
                model.embed_tokens(before[0]).expand(batch, -1, -1),
                tokens,
                model.embed_tokens(rows),
            ],
            dim=1,
        )
        image = Segment(prefix, prefix + image_tokens)
        positions = torch.arange(sequence.shape[1], device=tokens.device)[None, None]
        hidden = model.decode(sequence, image, positions)  # (B, T, hidden)
        last = torch.tensor([image.stop + len(ids) - 1 for ids in after], device=tokens.device)
        ends = hidden[torch.arange(batch, device=tokens.device), last]
        # In float32 whatever the model is in: bfloat16 would round a logit of 20 by up to 0.06, and
        # a probability by 6 %. Part by part, as the whole head would take 0.5 GB.
        parts = self._head.split(_HEAD_ROWS)
        return torch.cat([F.linear(ends.float(), rows.float()) for rows in parts], dim=1)
