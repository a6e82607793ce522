"""The authors' code from their own checkout, in an environment of theirs, with our weights.

It runs in a process of its own (`run_authors.py`), which answers one job at a time. Jobs and
answers are dictionaries in files of torch; a line on stdin and stdout says that one is there.
"""

import contextlib
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from ma_agiqa.checkpoints.official import rename_official
from ma_agiqa.networks.scorer import MAAGIQA

_TRANSFORMERS = "transformers==4.31.0, icecream"
NEEDED = {
    "embedder": ("mplug_owl2/model", f"torch, {_TRANSFORMERS}, safetensors, einops"),
    "scorer": ("models/MA_AGIQA.py", "torch, torchvision, timm, einops"),
    "preprocess": ("data/AIGC_general.py", f"torch, torchvision, opencv-python, {_TRANSFORMERS}"),
}
"""What a subject needs: a path in the checkout, and packages, with what these import."""


class AuthorsCodeError(RuntimeError):
    """The authors' code does not run; the message says why."""


class Authors:
    """The authors' code for one subject, running; a context manager.

    Args:
        subject: a key of `NEEDED`. The functions of `run_authors.py` by these names say which jobs
            each takes, and what it answers.
        python: interpreter of an environment in which the authors' code runs.
        checkout: folder of a clone of https://github.com/wangpuyi/MA-AGIQA.
        settings: arguments of the subject's function.

    Raises:
        AuthorsCodeError: the folder is no checkout, or the authors' code does not start; the
            message has the last line that it wrote.
    """

    def __init__(self, subject: str, python: str, checkout: Path, **settings: Any) -> None:
        needed, self._environment = NEEDED[subject]
        if not (checkout / needed).exists():
            raise AuthorsCodeError(
                f"{checkout} has no {needed}. Give the folder of a clone of "
                "https://github.com/wangpuyi/MA-AGIQA."
            )
        self.folder = tempfile.TemporaryDirectory()
        self._log = Path(self.folder.name, "log")
        script = Path(__file__).with_name("run_authors.py")
        command = [python, str(script), str(checkout.resolve()), subject, self.folder.name]
        with self._log.open("w") as log:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            except OSError as error:
                raise AuthorsCodeError(f"{python}: {error.strerror}.") from error
        self.ask(threads=torch.get_num_threads(), **settings)

    def __enter__(self) -> "Authors":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self.folder.cleanup()

    def ask(self, **job: Any) -> dict[str, Any]:
        """Send a job and wait for its answer. Both have tensors and plain values."""
        torch.save(job, Path(self.folder.name, "job"))
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer says why
            print(file=self._process.stdin, flush=True)
        if not self._process.stdout.readline():
            code = self._process.wait()
            lines = self._log.read_text().strip().splitlines() or ["(nothing)"]
            self.folder.cleanup()
            raise AuthorsCodeError(
                f"The authors' code ended with status {code}: {lines[-1]} Give --python an "
                f"environment with {self._environment}."
            )
        return torch.load(Path(self.folder.name, "answer"), weights_only=True)


def give_weights(authors: Authors, model: MAAGIQA) -> None:
    """Give their scorer the weights of `model`, which has the published sizes."""
    names = authors.ask()["names"]
    blocks = len(model.maniqa.backbone.vit.blocks)
    ours = rename_official({name: name for name in names}, blocks)  # our name: theirs
    weights = {theirs: model.state_dict()[name].cpu() for name, theirs in ours.items()}
    if unknown := authors.ask(weights=weights)["unknown"]:
        raise AuthorsCodeError(f"The checkout's model does not know the tensors {unknown}.")
