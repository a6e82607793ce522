"""Whole answers of the LMM, token by token."""

from collections.abc import Iterator, Sequence

import torch

from ma_agiqa.lmm.answers import Answerer


def generate(
    answerer: Answerer, view: torch.Tensor, prompt: Sequence[int], count: int
) -> Iterator[int]:
    """The answer's tokens, as the server asks for them; the end token is not given."""
    ids = list(prompt)
    for _ in range(count):
        token = answerer.next_token(view, ids)
        if token == answerer._model.config.eos_token_id:
            return
        ids.append(token)
        yield token
