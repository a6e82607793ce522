"""What an embedder is: the facts that decide the embeddings it makes of an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.images.views import PREPROCESSING
from ma_agiqa.lmm.embedder import PROMPTS
from ma_agiqa.lmm.weights_hash import weights_sha256


@dataclass(frozen=True)
class EmbedderIdentity:
    """What decides the embeddings of an image; a model card and a store of features record it.

    Attributes:
        source: where the weights come from, as `lmm.sources.build_embedder` takes it. The same
            weights in another place are the same embedder.
        dtype: format of the weights, one of `lmm.sources.DTYPES`; None if not known.
        weights_sha256: as `lmm.weights_hash` computes it; None if not known.
        prompts: token ids by name; empty if not known.
        preprocessing: how the views are made, in words; empty if not known.
    """

    source: str
    dtype: str | None = None
    weights_sha256: str | None = None
    prompts: Mapping[str, Sequence[int]] = field(default_factory=lambda: PROMPTS)
    preprocessing: Mapping[str, str] = field(default_factory=lambda: PREPROCESSING)

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
        return cls(source, dtype, weights_sha256(source, hashes or FileHashes.of_user(), dtype))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "EmbedderIdentity":
        """Read what a card or a store records; names of other things are left out."""
        return cls(
            str(values.get("source") or "unknown"),
            values.get("dtype"),
            values.get("weights_sha256"),
            values.get("prompts") or {},
            values.get("preprocessing") or {},
        )

    def verifies(self, other: "EmbedderIdentity") -> bool:
        """Whether the weights of both are known, so that they can be compared."""
        return None not in (self.weights_sha256, other.weights_sha256)

    def differences(
        self, other: "EmbedderIdentity", any_dtype: bool = False, by_name: bool = True
    ) -> list[str]:
        """Say what another embedder has otherwise, such as "its dtype is int8, not float16".

        What one of the two does not know is not compared.

        Args:
            other: the other embedder.
            any_dtype: whether the dtype does not matter.
            by_name: whether the sources are compared where the weights cannot be.
        """
        found = []
        if not self.verifies(other):
            if by_name and self.source != other.source:
                found.append(
                    "its weights are not here to be compared, and "
                    f"its source is {other.source!r}, not {self.source!r}"
                )
        elif other.weights_sha256 != self.weights_sha256:
            found.append(
                f"the hash of its weights is {other.weights_sha256}, not {self.weights_sha256}"
            )
        if not any_dtype and None not in (self.dtype, other.dtype) and self.dtype != other.dtype:
            found.append(f"its dtype is {other.dtype}, not {self.dtype}")
        for name in ("prompts", "preprocessing"):
            ours, theirs = _plain(getattr(self, name)), _plain(getattr(other, name))
            if ours and theirs and ours != theirs:
                wrong = next(k for k in (*ours, *theirs) if ours.get(k) != theirs.get(k))
                values = f"{theirs.get(wrong)!r}, not {ours.get(wrong)!r}"
                found.append(f"its {name}.{wrong} is {values}")
        return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Token ids as lists, as JSON and YAML give them."""
    return {k: v if isinstance(v, str) else list(v) for k, v in values.items()}
