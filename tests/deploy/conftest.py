"""Small real repositories for the real tritonserver."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "preprocess" model_version: -1
      input_map { key: "IMAGE" value: "IMAGE" }
      output_map { key: "QUALITY_VIEW" value: "QUALITY_VIEW" }
    },
    {
      model_name: "maniqa_moe" model_version: -1
      input_map { key: "QUALITY_VIEW__0" value: "QUALITY_VIEW" }
      output_map { key: "SCORE__0" value: "SCORE" }
    }
  ]
}
parameters { key: "name" value: { string_value: "tiny" } }
parameters { key: "note" value: { string_value: "a model of the tests" } }
"""
PREPROCESS = """
backend: "python"
max_batch_size: 4
input [ { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "QUALITY_VIEW" data_type: TYPE_UINT8 dims: [ 2, 2, 3 ] } ]
"""
PREPROCESS_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()[:, 0]
        views = np.stack([np.frombuffer(data[-12:], np.uint8).reshape(2, 2, 3) for data in images])
        tensor = pb_utils.Tensor("QUALITY_VIEW", views)
        return pb_utils.InferenceResponse(output_tensors=[tensor])
"""
SCORER = """
backend: "python"
max_batch_size: 4
input [ { name: "QUALITY_VIEW__0" data_type: TYPE_UINT8 dims: [ 2, 2, 3 ] } ]
output [ { name: "SCORE__0" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
SCORER_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        view = pb_utils.get_input_tensor_by_name(request, "QUALITY_VIEW__0").as_numpy()
        score = view.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] * np.float32(FACTOR)
        tensor = pb_utils.Tensor("SCORE__0", score)
        return pb_utils.InferenceResponse(output_tensors=[tensor])
"""


def add_model(repository: Path, name: str, config: str, files: dict[str, str]) -> Path:
    """Write version 1 of a model; return the version folder."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    for file, text in files.items():
        (version / file).write_text(text)
    return version


def write_ensemble(repository: Path, factor: str) -> Path:
    """An ensemble without torch, which starts in a second; SCORE is the mean times a factor."""
    add_model(repository, "ma_agiqa", ENSEMBLE, {})
    add_model(repository, "preprocess", PREPROCESS, {"model.py": PREPROCESS_MODEL})
    scorer = {"model.py": SCORER_MODEL.replace("FACTOR", factor), "model.pt": ""}
    add_model(repository, "maniqa_moe", SCORER, scorer)
    return repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An `ma_agiqa` ensemble of two tiny models, in a folder that no other test uses."""
    return write_ensemble(tmp_path / "repository", "1 / 51")


@pytest.fixture
def broken_repository(tmp_path: Path) -> Path:
    """The same, but the scores are not numbers."""
    return write_ensemble(tmp_path / "repository", "'nan'")


@pytest.fixture(scope="session")
def torchscript_model() -> Callable[[Path, str, torch.nn.Module, str], None]:
    """Writes a scripted module and its configuration into a repository."""

    def write(repository: Path, name: str, module: torch.nn.Module, config: str) -> None:
        header = 'platform: "pytorch_libtorch"\n'
        version = add_model(repository, name, header + config, {})
        torch.jit.script(module).save(version / "model.pt")

    return write


class Processes:
    """The processes whose command line mentions one folder, and what they hold."""

    def __init__(self, folder: Path):
        self._folder = str(folder).encode()

    def find(self, program: str = "") -> list[int]:
        """Living processes, of one program if it is named."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            mine = self._folder in command and int(folder.name) != os.getpid()
            if mine and state != "Z" and (not program or self._is(command, program)):
                found.append(int(folder.name))
        return found

    def kill(self, program: str) -> None:
        os.kill(self.find(program)[0], signal.SIGKILL)

    def argument(self, name: str) -> str:
        """Value of an option of the running tritonserver."""
        command = Path(f"/proc/{self.find('tritonserver')[0]}/cmdline").read_bytes().decode()
        return next(a.partition(name)[2] for a in command.split("\0") if name in a)

    def wait_until_gone(self, deadline_s: float = 30.0) -> list[int]:
        """Wait until none is left; return those that are."""
        end = time.monotonic() + deadline_s
        while self.find() and time.monotonic() < end:
            time.sleep(0.05)
        return self.find()

    @staticmethod
    def _is(command: bytes, program: str) -> bool:
        arguments = command.split(b"\0")
        names = [os.path.basename(argument) for argument in arguments]
        if program.endswith(".py"):
            return program.encode() in names
        return names[0] == program.encode()


@pytest.fixture
def processes(repository: Path) -> Processes:
    """The processes that serve `repository`."""
    return Processes(repository)
