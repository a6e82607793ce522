"""Text answers of the LMM (paper Fig. 5): greedy decoding that keeps keys and values.

Every call is given all tokens so far and returns the next one, so it depends on no earlier call.
The keys and values of the latest answers are kept, so that their next token costs one position and
not the whole sequence.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.errors import CannotAnswerError, QuestionError
from ma_agiqa.lmm.embedder import PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import IMAGE_TOKEN_ID, MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.decoder import KeyValues, Segment
from ma_agiqa.lmm.mplug_owl2.weight_files import read_tensor
from ma_agiqa.lmm.sources import DEMO_EMBEDDER
from ma_agiqa.lmm.tokenizer import DEMO_CANNOT_ANSWER

_HEAD = "lm_head.weight"

_Key = tuple[bytes, tuple[int, ...]]


class Answerer:
    """Answers questions about an image with the embedder's own weights and the language head.

    Args:
        embedder: the embedder whose mPLUG-Owl2 answers.
        head: `lm_head.weight`, (vocabulary, hidden), in the model's dtype and on its device.
        kept: number of answers whose keys and values are kept. At the paper's size and in 16 bits
            each takes 0.5 MiB per position (2 x 32 layers x 4096 x 2 bytes), about 130 MiB for an
            answer of 150 tokens to one of the paper's questions.
    """

    def __init__(self, embedder: PromptEmbedder, head: Tensor, kept: int = 2) -> None:
        self._embedder = embedder
        self._head = head
        self._kept: OrderedDict[_Key, KeyValues] = OrderedDict()
        self._room = kept

    @property
    def _model(self) -> MPlugOwl2Model:
        return self._embedder.model

    @torch.inference_mode()
    def next_token(self, view: Tensor, ids: Sequence[int]) -> int:
        """Continue a prompt by the likeliest token.

        Args:
            view: uint8 (S, S, 3), RGB, the semantic view of the image; on any device.
            ids: the prompt's token ids with the image (-200) once, and the answer so far.

        Returns:
            The token's id; `config.eos_token_id` ends an answer.

        Raises:
            ConfigError: `ids` does not have the image exactly once.
            QuestionError: `ids` has more positions than the model, or an id that it does not have.
        """
        self._check(ids)
        digest = hashlib.blake2b(view.cpu().numpy().tobytes(), digest_size=16).digest()
        past = self._kept.pop((digest, tuple(ids[:-1])), None)
        hidden, present = self._start(view, ids) if past is None else self._continue(ids, past)
        self._kept[digest, tuple(ids)] = present
        while len(self._kept) > self._room:
            self._kept.popitem(last=False)
        token = int(F.linear(hidden, self._head).argmax())
        if token == self._model.config.eos_token_id:
            del self._kept[digest, tuple(ids)]
        return token

    def _check(self, ids: Sequence[int]) -> None:
        config = self._model.config
        positions = len(ids) - 1 + config.num_image_tokens
        if positions > config.max_position_embeddings:
            raise QuestionError(
                f"The question, the image and the answer take {positions:,} positions; the model "
                f"has {config.max_position_embeddings:,}. Ask a shorter question."
            )
        if any(not 0 <= id_ < config.vocab_size for id_ in ids if id_ != IMAGE_TOKEN_ID):
            raise QuestionError(
                f"The question has a token that is not among the model's {config.vocab_size:,}. "
                "Serve the tokenizer that belongs to the model."
            )

    def _start(self, view: Tensor, ids: Sequence[int]) -> tuple[Tensor, KeyValues]:
        """Run the whole sequence; give the last position's hidden state, (hidden,)."""
        present: KeyValues = []
        hidden = self._model(self._embedder.pixels(view[None]), ids, present)  # (1, T, hidden)
        return hidden[0, -1], present

    def _continue(self, ids: Sequence[int], past: KeyValues) -> tuple[Tensor, KeyValues]:
        """Run the last token, with the kept keys and values."""
        model = self._model
        length = past[0][0].shape[2]
        last = torch.tensor([[ids[-1]]], device=model.device)
        positions = torch.tensor([[[length]]], device=model.device)
        # Without a mask, attention would align this one position with the first key.
        sees_all = torch.ones(1, 1, 1, length + 1, dtype=torch.bool, device=model.device)
        present: KeyValues = []
        hidden = model.decode(
            model.embed_tokens(last), Segment(1, 1), positions, sees_all, past, present
        )
        return hidden[0, -1], present


def language_head(source: str, model: MPlugOwl2Model) -> Tensor:
    """Read the language head, which embeddings do not need, from a checkpoint.

    Args:
        source: source of the weights, as `ma_agiqa.lmm.sources.build_embedder` takes it.
        model: the model that the head has to fit; it gets its dtype and device.

    Returns:
        `lm_head.weight`, (vocabulary, hidden).

    Raises:
        CannotAnswerError: the demo's model has none; or it is missing, or cannot be read.
    """
    if source == DEMO_EMBEDDER:
        raise CannotAnswerError(DEMO_CANNOT_ANSWER)
    try:
        head = read_tensor(source, _HEAD)
    except Exception as error:  # the hub, the disk and the parsers raise errors of every kind
        raise CannotAnswerError(
            f"The language head ({_HEAD}) cannot be read from the served checkpoint, so the model "
            "cannot answer questions. Download the checkpoint again."
        ) from error
    expected = (model.config.vocab_size, model.config.hidden_size)
    if head.shape != expected:
        raise CannotAnswerError(
            f"The language head has shape {tuple(head.shape)} instead of {expected}, so the model "
            "cannot answer questions. Download the checkpoint again."
        )
    return head.to(model.device, model.dtype)
