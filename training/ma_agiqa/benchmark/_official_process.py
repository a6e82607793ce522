"""The authors' scorer in a process of its own, driven by `_official_scorer.py`."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.errors import ConfigError
from ma_agiqa.official_checkpoint import rename_official
from ma_agiqa.scorer import MAAGIQA

__all__ = ["OfficialScorer"]

_SCRIPT = Path(__file__).with_name("_official_scorer.py")
_MODEL = Path("models", "MA_AGIQA.py")


class OfficialScorer:
    """Their code with our weights; a context manager.

    Args:
        checkout: folder of `wangpuyi/MA-AGIQA`.
        python: interpreter of an environment in which their code runs.
        threads: of the CPU.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: the folder is no checkout, or their code does not start; the message holds
            the last line that it wrote.
    """

    def __init__(self, checkout: Path, python: str, threads: int, device: str) -> None:
        if not (checkout / _MODEL).is_file():
            raise ConfigError(
                f"--official {checkout}: there is no {_MODEL} in it. Give the folder of a clone "
                "of https://github.com/wangpuyi/MA-AGIQA."
            )
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "log")
        command = [python, str(_SCRIPT), str(checkout.resolve()), str(threads), device]
        with self._log.open("w") as log:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            except OSError as error:
                raise ConfigError(f"--official-python {python}: {error.strerror}.") from error
        self._names: Sequence[str] = self._hear()["names"]

    def __enter__(self) -> "OfficialScorer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def load(self, model: MAAGIQA) -> None:
        """Give them the weights of `model`, which has the published sizes."""
        blocks = len(model.maniqa.backbone.vit.blocks)
        ours = rename_official({name: name for name in self._names}, blocks)  # our name: theirs
        tensors = {theirs: model.state_dict()[name].cpu() for name, theirs in ours.items()}
        if unknown := self._ask("weights", tensors)["unknown"]:
            raise ConfigError(f"The checkout's model does not know the tensors {unknown}.")

    def score(self, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor]:
        """Time one forward pass.

        Args:
            inputs: as `MAAGIQA.forward` takes them.

        Returns:
            Seconds, and the scores (B,).
        """
        reply = self._ask("inputs", tuple(part.cpu() for part in inputs))
        return reply["seconds"], torch.tensor(reply["score"])

    def _ask(self, what: str, content: object) -> Mapping[str, Any]:
        file = Path(self._folder.name, f"{what}.pt")
        torch.save(content, file)
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_hear` says why
            print(json.dumps({what: str(file)}), file=self._process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> Mapping[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text().strip().splitlines() or ["(nothing)"]
            raise ConfigError(
                f"The authors' code ended with status {self._process.returncode}: {said[-1]} "
                "Give an environment in which it runs with --official-python."
            )
        return json.loads(line)
