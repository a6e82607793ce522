"""A scorer goes with the embedder whose embeddings it was trained on, and with no other.

    weights and prompts   must be those of the card, wherever the files are
    dtype                 must be the card's unless the caller names one: a scorer that was trained
                          on float16 embeddings may be served in bfloat16 or int8, which moves its
                          scores by rounding (`python -m ma_agiqa benchmark dtypes` shows by how
                          much), but only if someone decided so

Weights are compared by their hash. Where one of the hashes is not known, as in the card of the
authors' checkpoint, the pair is accepted with a warning that it is not verified.
"""

import logging

from ma_agiqa.checkpoints.card import ModelCard
from ma_agiqa.errors import ConfigError
from ma_agiqa.lmm.identity import EmbedderIdentity as EmbedderIdentity

_logger = logging.getLogger(__name__)


def check_binding(
    card: ModelCard, identity: EmbedderIdentity, where: str, any_dtype: bool = False
) -> None:
    """Refuse an embedder that a scorer was not trained with.

    Args:
        card: card of the scorer.
        identity: the embedder that is to be used.
        where: what names this embedder, for the message, such as "--embedder weights/owl".
        any_dtype: whether another dtype of the same weights is accepted, because the caller chose
            it.

    Raises:
        ConfigError: the weights, the prompts or the dtype are not those of the card.
    """
    trained = EmbedderIdentity.from_mapping(card.embedder)
    known = trained.weights_sha256 is not None
    found = trained.differences(identity, any_dtype, by_name=known)
    if not found and not trained.verifies(identity):
        _logger.warning(
            "It is not verified that %s has the weights that %s was trained with (%s): %s.",
            where,
            card.name,
            trained.source,
            "they are not on this machine" if known else "its card has no hash of them",
        )
    if found:
        dtype = f" in {trained.dtype}" if trained.dtype else ""
        raise ConfigError(
            f"{card.name} was trained on the embeddings of another embedder than {where}: "
            f"{'; '.join(found)}. Use the one that it was trained with ({trained.source}{dtype}), "
            "or train a scorer for this one."
        )
