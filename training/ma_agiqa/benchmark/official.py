"""The authors' code beside ours: their checkout, their environment, our weights.

It runs in a process of its own, one of the scripts `_official_*.py`, which reads jobs as lines of
JSON and answers each with one. Tensors travel in files.
"""

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

from ma_agiqa.checkpoints.official import rename_official
from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.scorer import MAAGIQA

__all__ = ["OfficialEmbedder", "OfficialPreprocess", "OfficialScorer"]


class _OfficialProcess:
    """One of the scripts beside this file at work; a context manager.

    Args:
        script: its name.
        python: interpreter of an environment in which the authors' code runs.
        checkout: folder of `wangpuyi/MA-AGIQA`.
        needed: what lies in that folder.
        arguments: of the script, after the checkout.

    Raises:
        ConfigError: the folder is no checkout, or their code does not start; the message holds
            the last line that it wrote.
    """

    environment = "torch"

    def __init__(
        self, script: str, python: str, checkout: Path, needed: Path, *arguments: object
    ) -> None:
        if not (checkout / needed).exists():
            raise ConfigError(
                f"--official {checkout}: there is no {needed} in it. Give the folder of a clone "
                "of https://github.com/wangpuyi/MA-AGIQA."
            )
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "log")
        path = Path(__file__).with_name(script)
        command = [python, path, checkout.resolve(), *arguments]
        with self._log.open("w") as log:
            try:
                self._process = subprocess.Popen(
                    list(map(str, command)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            except OSError as error:
                raise ConfigError(f"--official-python {python}: {error.strerror}.") from error
        self._greeting = self._hear()

    def __enter__(self) -> Any:
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

    def _file(self, name: str, content: object = None) -> str:
        """A file that both sides see, with a content for torch.load if there is one."""
        path = Path(self._folder.name, f"{name}.pt")
        if content is not None:
            torch.save(content, path)
        return str(path)

    def _ask(self, **job: object) -> Mapping[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_hear` says why
            print(json.dumps(job), file=self._process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> Mapping[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            code = self._process.wait()
            said = self._log.read_text().strip().splitlines() or ["(nothing)"]
            self._folder.cleanup()
            raise ConfigError(
                f"The authors' code ended with status {code}: {said[-1]} "
                f"Give --official-python an environment with {self.environment}."
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


class OfficialEmbedder(_OfficialProcess):
    """The authors' feature extraction.

    It maps the weight files that ours maps, so that 16 GB of weights are in memory once and the two
    can take turns, image for image.

    Args:
        python: of an environment with what `environment` names.
        checkout: of the authors' repository.
        weights: folder with safetensors and config.json.
        dtype: of torch, such as "bfloat16".
        device: where it runs.
    """

    environment = "torch, transformers==4.31.0, safetensors, icecream, einops and what they import"

    def __init__(self, python: str, checkout: Path, weights: Path, dtype: str, device: str) -> None:
        arguments = weights.resolve(), dtype, device, torch.get_num_threads()
        needed = Path("mplug_owl2", "model")
        super().__init__("_official_embedder.py", python, checkout, needed, *arguments)

    def run(
        self, pixels: Tensor, prompts: Mapping[str, Sequence[int]]
    ) -> tuple[float, dict[str, Tensor]]:
        """Embed a batch.

        Args:
            pixels: normalized RGB (B, 3, S, S), in the model's dtype.
            prompts: token ids by name, with the image once.

        Returns:
            Seconds that the four passes took, and for every prompt float32 (B, hidden).

        Raises:
            ConfigError: the process has ended.
        """
        made = self._file("features")
        ids = {name: list(values) for name, values in prompts.items()}
        answer = self._ask(pixels=self._file("pixels", pixels.cpu()), prompts=ids, features=made)
        return answer["seconds"], torch.load(made, weights_only=True)


class OfficialScorer(_OfficialProcess):
    """The authors' scorer.

    Args:
        python: of an environment with what `environment` names.
        checkout: of the authors' repository.
        threads: of the CPU.
        device: "cpu" or "cuda".
    """

    environment = "torch, torchvision, timm and einops"

    def __init__(self, python: str, checkout: Path, threads: int, device: str) -> None:
        needed = Path("models", "MA_AGIQA.py")
        super().__init__("_official_scorer.py", python, checkout, needed, threads, device)

    def load(self, model: MAAGIQA) -> None:
        """Give them the weights of `model`, which has the published sizes."""
        names = self._greeting["names"]
        blocks = len(model.maniqa.backbone.vit.blocks)
        ours = rename_official({name: name for name in names}, blocks)  # our name: theirs
        tensors = {theirs: model.state_dict()[name].cpu() for name, theirs in ours.items()}
        if unknown := self._ask(weights=self._file("weights", tensors))["unknown"]:
            raise ConfigError(f"The checkout's model does not know the tensors {unknown}.")

    def score(self, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor]:
        """Time one forward pass.

        Args:
            inputs: as `MAAGIQA.forward` takes them.

        Returns:
            Seconds, and the scores (B,).
        """
        reply = self._ask(inputs=self._file("inputs", tuple(part.cpu() for part in inputs)))
        return reply["seconds"], torch.tensor(reply["score"])


class OfficialPreprocess(_OfficialProcess):
    """The authors' way from image files to the inputs of both networks.

    Args:
        python: of an environment with what `environment` names.
        checkout: of the authors' repository.
        semantic_size: side of the semantic view in pixels.
    """

    environment = "torch, torchvision, opencv-python, transformers==4.31.0 and icecream"

    def __init__(self, python: str, checkout: Path, semantic_size: int) -> None:
        needed = Path("data", "AIGC_general.py")
        super().__init__("_official_preprocess.py", python, checkout, needed, semantic_size)

    def prepare(self, files: Sequence[bytes]) -> tuple[float, float, tuple[Tensor, Tensor]]:
        """Prepare files one after the other.

        Args:
            files: encoded images that both OpenCV and Pillow read.

        Returns:
            Seconds over all files for MANIQA's inputs and for mPLUG-Owl2's, and both: float32
            (N, 3, 224, 224) and (N, 3, S, S), normalized.

        Raises:
            ConfigError: the process has ended.
        """
        folder = Path(self._folder.name, "images")
        folder.mkdir(exist_ok=True)
        names = [f"{index}.jpg" for index in range(len(files))]  # the ending their code wants
        for name, data in zip(names, files, strict=True):
            (folder / name).write_bytes(data)
        made = self._file("inputs")
        answer = self._ask(folder=str(folder), names=names, inputs=made)
        inputs = torch.load(made, weights_only=True)
        return answer["quality"], answer["semantic"], inputs
