"""The authors' code from their own checkout, in an environment of theirs, with our weights.

It runs in a process of its own, one of the scripts `run_*.py`, which reads jobs as lines of JSON
and answers each with one. Tensors travel in files.
"""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ma_agiqa.checkpoints.official import rename_official
from ma_agiqa.networks.scorer import MAAGIQA


class AuthorsCodeError(RuntimeError):
    """The authors' code does not run; the message says why."""


class AuthorsProcess:
    """One of the scripts next to this file, running; a context manager.

    Args:
        script: name of the script.
        python: interpreter of an environment in which the authors' code runs.
        checkout: folder of a clone of https://github.com/wangpuyi/MA-AGIQA.
        needed: a path that has to exist in that folder.
        arguments: arguments of the script, after the checkout.

    Raises:
        AuthorsCodeError: the folder is no checkout, or the authors' code does not start; the
            message holds the last line that it wrote.
    """

    environment = "torch"

    def __init__(
        self, script: str, python: str, checkout: Path, needed: Path, *arguments: object
    ) -> None:
        if not (checkout / needed).exists():
            raise AuthorsCodeError(
                f"{checkout} has no {needed}. Give the folder of a clone of "
                "https://github.com/wangpuyi/MA-AGIQA."
            )
        self.folder = tempfile.TemporaryDirectory()
        self._log = Path(self.folder.name, "log")
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
                raise AuthorsCodeError(f"{python}: {error.strerror}.") from error
        self.greeting = self._read()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self.folder.cleanup()

    def file(self, name: str, content: object = None) -> str:
        """Name a file that both processes see; write a content for torch.load if there is one."""
        path = Path(self.folder.name, f"{name}.pt")
        if content is not None:
            torch.save(content, path)
        return str(path)

    def ask(self, **job: object) -> Mapping[str, Any]:
        """Send a job and wait for its answer."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_read` says why
            print(json.dumps(job), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Mapping[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            lines = self._log.read_text().strip().splitlines() or ["(nothing)"]
            self.folder.cleanup()
            raise AuthorsCodeError(
                f"The authors' code ended with status {code}: {lines[-1]} "
                f"Give --python an environment with {self.environment}."
            )
        return json.loads(line)


class AuthorsEmbedder(AuthorsProcess):
    """The authors' feature extraction.

    It maps the weight files that ours maps, so that 16 GB of weights are in memory once.

    Args:
        python: interpreter of an environment with what `environment` names.
        checkout: the authors' repository.
        weights: folder with safetensors and config.json.
        dtype: dtype of torch, such as "bfloat16".
        device: where it runs.
    """

    environment = "torch, transformers==4.31.0, safetensors, icecream, einops and what they import"

    def __init__(self, python: str, checkout: Path, weights: Path, dtype: str, device: str) -> None:
        arguments = weights.resolve(), dtype, device, torch.get_num_threads()
        needed = Path("mplug_owl2", "model")
        super().__init__("run_embedder.py", python, checkout, needed, *arguments)

    def embed(
        self, pixels: Tensor, prompts: Mapping[str, Sequence[int]]
    ) -> tuple[float, dict[str, Tensor]]:
        """Embed a batch of normalized RGB (B, 3, S, S), in the model's dtype.

        Returns:
            Seconds that the four passes took, and for every prompt float32 (B, hidden).
        """
        made = self.file("features")
        ids = {name: list(values) for name, values in prompts.items()}
        answer = self.ask(pixels=self.file("pixels", pixels.cpu()), prompts=ids, features=made)
        return answer["seconds"], torch.load(made, weights_only=True)


class AuthorsScorer(AuthorsProcess):
    """The authors' scorer.

    Args:
        python: interpreter of an environment with what `environment` names.
        checkout: the authors' repository.
        device: "cpu" or "cuda".
    """

    environment = "torch, torchvision, timm and einops"

    def __init__(self, python: str, checkout: Path, device: str) -> None:
        needed = Path("models", "MA_AGIQA.py")
        threads = torch.get_num_threads()
        super().__init__("run_scorer.py", python, checkout, needed, threads, device)

    def load(self, model: MAAGIQA) -> None:
        """Give it the weights of `model`, which has the published sizes."""
        names = self.greeting["names"]
        blocks = len(model.maniqa.backbone.vit.blocks)
        ours = rename_official({name: name for name in names}, blocks)  # our name: theirs
        tensors = {theirs: model.state_dict()[name].cpu() for name, theirs in ours.items()}
        if unknown := self.ask(weights=self.file("weights", tensors))["unknown"]:
            raise AuthorsCodeError(f"The checkout's model does not know the tensors {unknown}.")

    def score(self, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor]:
        """Time one forward pass over inputs as `MAAGIQA.forward` takes them.

        Returns:
            Seconds, and the scores (B,).
        """
        answer = self.ask(inputs=self.file("inputs", tuple(part.cpu() for part in inputs)))
        return answer["seconds"], torch.tensor(answer["score"])


class AuthorsPreprocess(AuthorsProcess):
    """The authors' way from image files to the inputs of both networks.

    Args:
        python: interpreter of an environment with what `environment` names.
        checkout: the authors' repository.
        semantic_size: side of the semantic view in pixels.
    """

    environment = "torch, torchvision, opencv-python, transformers==4.31.0 and icecream"

    def __init__(self, python: str, checkout: Path, semantic_size: int) -> None:
        needed = Path("data", "AIGC_general.py")
        super().__init__("run_preprocess.py", python, checkout, needed, semantic_size)

    def prepare(self, files: Sequence[bytes]) -> tuple[float, float, tuple[Tensor, Tensor]]:
        """Prepare encoded images, which both OpenCV and Pillow read, one after the other.

        Returns:
            Seconds over all files for MANIQA's inputs and for mPLUG-Owl2's, and both: float32
            (N, 3, 224, 224) and (N, 3, S, S), normalized.
        """
        folder = Path(self.folder.name, "images")
        folder.mkdir(exist_ok=True)
        names = [f"{index}.jpg" for index in range(len(files))]  # the ending their code wants
        for name, data in zip(names, files, strict=True):
            (folder / name).write_bytes(data)
        made = self.file("inputs")
        answer = self.ask(folder=str(folder), names=names, inputs=made)
        return answer["quality"], answer["semantic"], torch.load(made, weights_only=True)
