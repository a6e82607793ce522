"""The adaptive fusion module (paper §3.3, Eq. 4): a mixture of three experts.

f'  = transform(f)                      for quality, semantic, coherence
a   = gate([f'_semantic, f'_coherence, f'_quality])
g   = sum a_i f'_i
MOS = linear(g)
"""

import torch.nn.functional as F
from torch import Tensor, nn, stack, tensor

from ma_agiqa.errors import ConfigError
from ma_agiqa.tensors import GATE_ORDER

GATE_ACTIVATIONS = ("none", "sigmoid", "softmax")
FUSIONS = ("moe", "concat")
_CONCAT_DIM = 128  # hidden width of the concatenation baseline (paper Table 5)


class AdaptiveFusion(nn.Module):
    """Fuse the quality-aware feature with the two prompt embeddings into a score.

    Args:
        dim: width of the quality feature and of every transformed feature (paper: 784).
        semantic_dim: width of a prompt embedding (paper: 4096).
        inputs: which of `GATE_ORDER` are used; the others are ignored (paper Tables 3-4).
        fusion: "moe" (Eq. 4), or "concat": the concatenated features through two linear layers
            (paper Table 5).
        gate_activation: "none" as in the authors' released code, "sigmoid" as in the paper, or
            "softmax".
        dropout: probability of dropping a value of the transformed prompt embeddings.

    Raises:
        ConfigError: a name that is not one of the above, or no input at all.
    """

    slots: Tensor

    def __init__(
        self,
        dim: int,
        semantic_dim: int,
        inputs: tuple[str, ...] = GATE_ORDER,
        fusion: str = "moe",
        gate_activation: str = "none",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not inputs or not set(inputs) <= set(GATE_ORDER) or len(set(inputs)) != len(inputs):
            raise ConfigError(f"inputs {tuple(inputs)}: give some of {GATE_ORDER}, each once.")
        if fusion not in FUSIONS or gate_activation not in GATE_ACTIVATIONS:
            raise ConfigError(
                f"fusion {fusion!r} and gate_activation {gate_activation!r}: "
                f"choose from {FUSIONS} and {GATE_ACTIVATIONS}."
            )

        def prompt_transform() -> nn.Sequential:
            return nn.Sequential(nn.Linear(semantic_dim, dim), nn.ReLU(), nn.Dropout(dropout))

        self.semantic = prompt_transform() if "semantic" in inputs else None
        self.coherence = prompt_transform() if "coherence" in inputs else None
        self.quality = nn.Linear(dim, dim) if "quality" in inputs else None
        count = len(inputs)
        self.gate = nn.Linear(count * dim, count) if fusion == "moe" else None
        self.gate_activation = gate_activation
        self.regression: nn.Module = nn.Linear(dim, 1)
        if fusion == "concat":
            self.regression = nn.Sequential(
                nn.Linear(count * dim, _CONCAT_DIM), nn.Linear(_CONCAT_DIM, 1)
            )
        used = [name for name in GATE_ORDER if name in inputs]
        slots = [used.index(name) if name in used else count for name in GATE_ORDER]
        self.register_buffer("slots", tensor(slots), persistent=False)

    def forward(
        self, quality: Tensor, semantic: Tensor, coherence: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fuse a batch.

        Args:
            quality: f1 of Eq. (2), (B, dim).
            semantic, coherence: Eq. (3), (B, semantic_dim).

        Returns:
            The score (B, 1), and the gate's weights (B, 3) in `GATE_ORDER`: 0 for an input that
            is switched off, and equal shares where there is no gate ("concat").
        """
        features: list[Tensor] = []
        if self.semantic is not None:
            features.append(self.semantic(semantic))
        if self.coherence is not None:
            features.append(self.coherence(coherence))
        if self.quality is not None:
            features.append(self.quality(quality))
        experts = stack(features, dim=1)  # (B, inputs, dim)
        concatenated = experts.flatten(1)
        if self.gate is not None:
            weights = self._activate(self.gate(concatenated))
            score = self.regression((weights.unsqueeze(2) * experts).sum(dim=1))
        else:
            weights = experts.new_full((experts.size(0), experts.size(1)), 1.0 / experts.size(1))
            score = self.regression(concatenated)
        return score, F.pad(weights, [0, 1]).index_select(1, self.slots)

    def _activate(self, weights: Tensor) -> Tensor:
        if self.gate_activation == "sigmoid":
            return weights.sigmoid()
        if self.gate_activation == "softmax":
            return weights.softmax(dim=1)
        return weights
