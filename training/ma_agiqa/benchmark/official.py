"""The authors' feature extraction beside ours: their checkout, their environment, our weights.

Both processes map the same weight files, so that 16 GB of weights are in memory once and the two
can take turns, image for image.
"""

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

__all__ = ["OfficialEmbedder"]

_DRIVER = Path(__file__).with_name("_official_driver.py")


class OfficialEmbedder:
    """A process that runs the authors' code; use it as a context manager.

    Args:
        python: of an environment with torch >= 2.1 and transformers 4.31.
        checkout: of the authors' repository `wangpuyi/MA-AGIQA`.
        weights: folder with safetensors and config.json.
        dtype: of torch, such as "bfloat16".
        device: where it runs.

    Raises:
        ConfigError: it does not start.
    """

    def __init__(self, python: str, checkout: Path, weights: Path, dtype: str, device: str) -> None:
        if not (checkout / "mplug_owl2" / "model").is_dir():
            raise ConfigError(
                f"{checkout} is not a checkout of the authors' code: it has no mplug_owl2/model. "
                "Clone https://github.com/wangpuyi/MA-AGIQA and give its folder."
            )
        self._folder = tempfile.TemporaryDirectory()
        arguments = [checkout.resolve(), weights.resolve(), dtype, device, torch.get_num_threads()]
        try:
            self._process = subprocess.Popen(
                [python, str(_DRIVER), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._answer()
        except (ConfigError, OSError) as error:
            self._folder.cleanup()
            raise ConfigError(
                f"The authors' code does not run with {python}: {error} Its environment needs "
                "torch, transformers==4.31.0, safetensors, icecream, einops and what they import."
            ) from error

    def __enter__(self) -> "OfficialEmbedder":
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

    def run(
        self, pixels: Tensor, prompts: Mapping[str, Sequence[int]]
    ) -> tuple[float, dict[str, Tensor]]:
        """Embed a batch.

        Args:
            pixels: normalised RGB (B, 3, S, S), in the model's dtype.
            prompts: token ids by name, with the image once.

        Returns:
            Seconds that the four passes took, and for every prompt float32 (B, hidden).

        Raises:
            ConfigError: the process has ended.
        """
        given, made = (Path(self._folder.name) / name for name in ("pixels.pt", "features.pt"))
        torch.save(pixels.cpu(), given)
        ids = {name: list(values) for name, values in prompts.items()}
        job = {"pixels": str(given), "prompts": ids, "features": str(made)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"], torch.load(made, weights_only=True)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ConfigError(f"its process ended with code {code}; its messages are above.")
        answer: dict[str, Any] = json.loads(line)
        return answer
