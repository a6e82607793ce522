"""Copies of the best images in a separate folder."""

import os
import shutil
from pathlib import Path

from ma_agiqa_client.cli.rows import Row, best_first


class BestFolder:
    """Copies images into a folder, with the rank before the name: 0001_cat.png is the best."""

    def __init__(self, folder: str, *, ranked: bool) -> None:
        """Prepare.

        Args:
            folder: path of the folder; it is created if it does not exist.
            ranked: whether the rows arrive in order of rank; if not, they are sorted, best first.
        """
        self._folder = Path(folder)
        self._ranked = ranked
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Note a row that has a score."""
        if row.error is None:
            self._rows.append(row.without_patches())

    def finish(self) -> None:
        """Copy the files.

        Raises:
            OSError: a file cannot be read or written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = self._rows if self._ranked else best_first(self._rows)
        digits = max(4, len(str(len(rows))))
        for rank, row in enumerate(rows, 1):
            name = f"{rank:0{digits}d}_{os.path.basename(row.image)}"
            shutil.copy2(row.image, self._folder / name)
