"""BRISQUE by the PyPI package `brisque`, whose support vectors come with it.

They are the package's own: its values follow those of BRISQUE's authors without being equal to
them. pyiqa, which has the authors' support vectors, is therefore preferred if it is installed.
"""

import importlib
import importlib.metadata
import math
from typing import Any

from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.images.views import RGB


class BrisquePackage:
    """BRISQUE of the package: 0 (good) to about 100 (bad).

    Raises:
        ConfigError: the package is not installed, or does not work here.
    """

    def __init__(self) -> None:
        try:
            self._brisque: Any = importlib.import_module("brisque").BRISQUE()
        except ImportError as error:
            raise ConfigError(
                f"The package brisque cannot be used ({error}). "
                "Install it: pip install -e './training[baselines]'."
            ) from error
        version = importlib.metadata.version("brisque")
        self.origin = f"brisque {version} (the package's own support vectors)"

    def score(self, rgb: RGB) -> float:
        """Score an image, uint8 (H, W, 3).

        Raises:
            DataError: the image has no statistics, because it is flat or tiny.
        """
        try:
            found = float(self._brisque.score(rgb))
        except (ArithmeticError, IndexError, ValueError) as error:
            raise DataError(f"BRISQUE cannot measure this image: {error}.") from error
        if not math.isfinite(found):
            raise DataError(f"BRISQUE cannot measure this image: its value is {found}.")
        return found
