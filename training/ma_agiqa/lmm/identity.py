"""What an embedder is: the facts that decide the embeddings it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.embedder import PROMPTS
from ma_agiqa.lmm.weights_hash import weights_sha256


@dataclass(frozen=True)
class EmbedderIdentity:
    """What decides the embeddings of an image.

    Attributes:
        source: where the weights come from, as `lmm.sources.build_embedder` takes it. The same
            weights in another place are the same embedder.
        dtype: format of the weights, one of `lmm.sources.DTYPES`; None if not known.
        weights_sha256: as `lmm.weights_hash` computes it; None if not known.
        prompts: token ids by name; empty if not known.
    """

    source: str
    dtype: str | None = None
    weights_sha256: str | None = None
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: str, dtype: str | None, hashes: FileHashes | None = None
    ) -> "EmbedderIdentity":
        """Identify an embedder with the paper's two prompts, without loading it.

        Args:
            source: as `lmm.sources.build_embedder` takes it.
            dtype: one of `lmm.sources.DTYPES`.
            hashes: hashes of files that are known; by default those of this user.

        Raises:
            CheckpointError: a weight file cannot be read.
        """
        found = weights_sha256(source, hashes or FileHashes.of_user(), dtype)
        return cls(source, dtype, found, PROMPTS)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "EmbedderIdentity":
        """Read what a model card or a store of features records; other names are left out."""
        return cls(
            str(values.get("source") or "unknown"),
            values.get("dtype"),
            values.get("weights_sha256"),
            values.get("prompts") or {},
        )
