"""The working folder of a training run, from which an interrupted run continues.

    run.json         resolved settings, split and features of the run
    checkpoint-N/    weights, optimizer, learning rate, random numbers after step N; complete if it
                     has the file `whole`, and what that lists
    tensorboard/     curves, for `tensorboard --logdir`

A checkpoint is written at the end of every epoch. The newest whole one holds everything that the
following epochs depend on, so the run ends with the weights it would have had anyway.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ma_agiqa.errors import ConfigError
from ma_agiqa.files import write_whole
from ma_agiqa.settings import differences

_RUN, _WHOLE, _PREFIX = "run.json", "whole", "checkpoint-"

_logger = logging.getLogger(__name__)


class RunFolder:
    """Working folder next to the checkpoint folder of a run.

    Args:
        output: the checkpoint folder; `runs/a` has the working folder `runs/a.work`.
    """

    def __init__(self, output: str | Path) -> None:
        output = Path(output)
        self.path = output.with_name(output.name + ".work")
        self.curves = self.path / "tensorboard"

    def start(self, run: Mapping[str, Any], restart: bool) -> None:
        """Make the folder, or continue in it if it belongs to the same run.

        A run that was stopped in its first epoch has nothing to continue from, and blocks no other.

        Args:
            run: everything that decides the outcome, as plain values.
            restart: start from scratch, whatever the folder holds.

        Raises:
            ConfigError: the folder holds another run, unfinished.
            DataError: the disk is full, or cannot be written to.
        """
        if restart:
            shutil.rmtree(self.path, ignore_errors=True)
        if self.newest_whole() is None:
            self.finish()
        found = self._read()
        if found is not None and (different := sorted(differences(found, run))):
            raise ConfigError(
                f"{self.path} holds an unfinished run with other settings ({', '.join(different)})."
                " Give --restart to start from scratch, or another --output."
            )
        write_whole(self.path / _RUN, json.dumps(run, indent=2) + "\n")

    def newest_whole(self) -> Path | None:
        """Find the checkpoint to continue from; None if there is none."""
        found = {int(path.name.removeprefix(_PREFIX)): path for path in self._checkpoints()}
        whole = [step for step, path in found.items() if _is_whole(path)]
        return found[max(whole)] if whole else None

    def mark_whole(self, step: int) -> None:
        """Note that the checkpoint of a step is complete."""
        path = self.path / f"{_PREFIX}{step}"
        (path / _WHOLE).write_text("\n".join(file.name for file in path.iterdir()))

    def finish(self) -> None:
        """Remove everything but the curves."""
        for path in self._checkpoints():
            shutil.rmtree(path, ignore_errors=True)
        (self.path / _RUN).unlink(missing_ok=True)

    def _checkpoints(self) -> Iterator[Path]:
        return (p for p in self.path.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit())

    def _read(self) -> Any:
        try:
            return json.loads((self.path / _RUN).read_text())
        except (OSError, ValueError):
            return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all its files: an old one may have been half removed."""
    try:
        names = (checkpoint / _WHOLE).read_text().splitlines()
    except OSError:
        return False
    return all((checkpoint / name).exists() for name in names)
