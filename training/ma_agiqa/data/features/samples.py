"""Training samples out of features, and their augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ma_agiqa.data.features.store import Features

__all__ = ["Augmentation", "ScorerDataset"]

_TURNS = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the quality view while training; the embeddings stay those of the image.

    Attributes:
        rotation_probability: of a turn by 90, 180 or 270 degrees (paper's code: 0.7).
        vertical_flip_probability: upside down (paper's code: 0.7).
        horizontal_flip_probability: left to right (paper's code: 0).
    """

    rotation_probability: float = 0.7
    vertical_flip_probability: float = 0.7
    horizontal_flip_probability: float = 0.0

    def __call__(self, view: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Change one view uint8 (S, S, 3); the result may share its memory."""
        turn, angle, vertical, horizontal = random.random(4)
        if turn < self.rotation_probability:
            view = cv2.rotate(view, _TURNS[int(angle * len(_TURNS))])
        if vertical < self.vertical_flip_probability:
            view = cv2.flip(view, 0)
        if horizontal < self.horizontal_flip_probability:
            view = cv2.flip(view, 1)
        return view


class ScorerDataset(Dataset[dict[str, Tensor]]):
    """The samples of one part.

    A sample is quality_view uint8 (224, 224, 3), semantic and coherence float32 (D,), and labels,
    the MOS, float32 (). Its augmentation follows from the seed, the epoch and the image alone: it
    is the same in every process and worker, and after a resume.
    """

    def __init__(
        self,
        features: Features,
        indices: Sequence[int],
        mos: Sequence[float],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        """Choose the samples.

        Args:
            features: of all images.
            indices: of the images of this part, among those of the features.
            mos: scores of the images of this part.
            augmentation: of the quality views; None leaves them.
            seed: of the augmentation, 0 or more.
        """
        self._features, self._augmentation, self._seed = features, augmentation, seed
        self._indices = np.array(indices, np.int64)
        self._mos = torch.tensor(mos, dtype=torch.float32)
        # In shared memory, so that worker processes that live on see a change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next samples are for; it counts from 0."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        """Make the samples of a batch; torch's loader calls it."""
        indices = self._indices[positions]
        rows = self._features.rows[indices]
        views = np.stack([self._view(*pair) for pair in zip(indices, rows, strict=True)])
        columns = {
            "quality_view": torch.from_numpy(views),
            "semantic": torch.from_numpy(self._features.semantic[rows]).float(),
            "coherence": torch.from_numpy(self._features.coherence[rows]).float(),
            "labels": self._mos[positions],
        }
        samples = zip(*(column.unbind() for column in columns.values()), strict=True)
        return [dict(zip(columns, sample, strict=True)) for sample in samples]

    def _view(self, index: int, row: int) -> NDArray[np.uint8]:
        view = self._features.quality_view[row]
        if self._augmentation is None:
            return view
        random = np.random.default_rng([self._seed, int(self._epoch), index])
        return self._augmentation(view, random)
