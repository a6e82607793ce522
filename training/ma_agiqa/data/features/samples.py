"""Training samples made of features."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ma_agiqa.data.augmentation import Augmentation
from ma_agiqa.data.features.ensure import Features

Draw = int | tuple[int, int]
"""A sample: its index in the part; while training, the epoch (from 0) and that index."""


class ScorerDataset(Dataset[dict[str, Tensor]]):
    """The samples of one part.

    A sample is quality_view uint8 (224, 224, 3), semantic and coherence float32 (D,), and labels,
    the MOS, float32 (), and group, int64 (). Its augmentation follows from the seed, the epoch and
    the image alone: it is the same in every process and worker, and after a resume.
    """

    def __init__(
        self,
        features: Features,
        positions: Sequence[int],
        mos: Sequence[float],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        groups: Sequence[int] | None = None,
    ) -> None:
        """Choose the samples.

        Args:
            features: features of all images of the run.
            positions: positions of the part's images among these.
            mos: scores of the part's images.
            augmentation: changes the quality views; None leaves them.
            seed: seed of the augmentation, 0 or more.
            groups: numbers of the images' groups; by default every image stands alone.
        """
        self._features, self._augmentation, self._seed = features, augmentation, seed
        self._positions = list(positions)
        self.groups = list(groups) if groups is not None else list(range(len(positions)))
        self._mos = torch.tensor(mos, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[dict[str, Tensor]]:
        """Make the samples of a batch; torch's loader calls it."""
        epochs, indices = zip(*(d if isinstance(d, tuple) else (0, d) for d in draws), strict=True)
        positions = [self._positions[index] for index in indices]
        found = self._features.read(positions)
        views = [
            self._change(view, epoch, position)
            for view, epoch, position in zip(found["quality_view"], epochs, positions, strict=True)
        ]
        columns = {
            "quality_view": torch.from_numpy(np.stack(views)),
            "semantic": torch.from_numpy(found["semantic"]).float(),
            "coherence": torch.from_numpy(found["coherence"]).float(),
            "labels": self._mos[list(indices)],
            "group": torch.tensor([self.groups[index] for index in indices]),
        }
        samples = zip(*(column.unbind() for column in columns.values()), strict=True)
        return [dict(zip(columns, sample, strict=True)) for sample in samples]

    def _change(self, view: NDArray[np.uint8], epoch: int, position: int) -> NDArray[np.uint8]:
        if self._augmentation is None:
            return view
        return self._augmentation(view, np.random.default_rng([self._seed, epoch, position]))
