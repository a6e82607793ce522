"""Copies of the best images in a separate folder."""

import os
import shutil
from pathlib import Path

from ma_agiqa_client.cli._find import COPIES_MARK
from ma_agiqa_client.cli.maps import Failures, fitting
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
        self.failures = Failures()

    def add(self, row: Row) -> None:
        """Note a row that has a score."""
        if row.error is None:
            self._rows.append(row.without_map())

    def finish(self) -> None:
        """Copy the files; those that cannot be copied go to `failures`.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / COPIES_MARK).touch()
        rows = self._rows if self._ranked else best_first(self._rows)
        digits = max(4, len(str(len(rows))))
        for rank, row in enumerate(rows, 1):
            stem, ending = os.path.splitext(os.path.basename(row.image))
            with self.failures.of(row.image, "It was not copied"):
                name = fitting(f"{rank:0{digits}d}_{stem}", ending)
                shutil.copy2(row.image, self._folder / name)
