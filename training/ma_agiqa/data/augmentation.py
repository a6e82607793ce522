"""Random changes of the quality view while the scorer is trained."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Augmentation:
    """Turns and flips of the quality view; the embeddings stay those of the unchanged image.

    Attributes:
        rotation_probability: probability of a turn by 90, 180 or 270 degrees (paper's code: 0.7).
        vertical_flip_probability: probability of turning it upside down (paper's code: 0.7).
        horizontal_flip_probability: probability of swapping left and right (paper's code: 0).
    """

    rotation_probability: float = 0.7
    vertical_flip_probability: float = 0.7
    horizontal_flip_probability: float = 0.0

    def __call__(self, view: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Change one view, uint8 (S, S, 3); the result may share its memory."""
        turn, angle, vertical, horizontal = random.random(4)
        if turn < self.rotation_probability:
            view = np.rot90(view, 1 + int(angle * 3))
        if vertical < self.vertical_flip_probability:
            view = view[::-1]
        if horizontal < self.horizontal_flip_probability:
            view = view[:, ::-1]
        return view
