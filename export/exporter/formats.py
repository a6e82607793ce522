"""The formats in which the scorer is served, each checked against the eager model.

`BACKENDS` says for each backend of Triton which file it serves and how the file is written and run
here. `ma_agiqa.networks.arithmetic` decides how the scorer computes.
"""

import copy
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import onnxruntime
import torch
from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError
from ma_agiqa.networks.arithmetic import Inputs, random_inputs
from ma_agiqa.networks.calibration import CalibratedOutput, CalibratedScorer, UncalibratedScorer
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput
from ma_agiqa.tensors import MAX_BATCH_SIZE

CHECK_BATCHES = (1, 3, 8)
TORCHSCRIPT_TOLERANCE = 1e-4
ONNX_TOLERANCE = 1e-3

INPUTS = ("QUALITY_VIEW", "SEMANTIC", "COHERENCE")

logger = logging.getLogger(__name__)

Run = Callable[..., Sequence[Tensor]]

Served = MAAGIQA | CalibratedScorer | UncalibratedScorer
"""A scorer without intervals, with them, or with NaN in their place."""


@dataclass(frozen=True)
class Backend:
    """A backend of Triton that can serve the scorer.

    Attributes:
        title: name of the format.
        file: name of the file that the backend reads.
        write: writes the file, of a scorer on the device on which it is served.
        read: reads the file, to run it on that device.
        inputs: the backend's names of `INPUTS`.
        output: pattern of its names of the outputs.
        config: fields of the model's configuration.
        parameters: parameters of the model's configuration.
        tolerance: name of the constant here that limits the difference from the eager model.
        compiled: whether the file is for the kind of device only on which it was written.
    """

    title: str
    file: str
    write: Callable[[nn.Module, Inputs, Path], None]
    read: Callable[[Path], Run]
    inputs: tuple[str, ...]
    output: str
    config: Mapping[str, str]
    parameters: Mapping[str, str] = field(default_factory=dict)
    tolerance: str = "TORCHSCRIPT_TOLERANCE"
    compiled: bool = False

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Give the backend's names of outputs of the scorer, in their order."""
        return _numbered(self.output, names)

    def export(self, model: Served, folder: Path, gpu: bool = False) -> float:
        """Write the file and check what was written.

        Args:
            model: the scorer, on the CPU.
            folder: where the file goes, under its name.
            gpu: whether it is served on a GPU; a compiled format then needs one here.

        Returns:
            The largest difference from the eager model.

        Raises:
            CheckpointError: it exceeds the tolerance, or the file cannot be written here.
        """
        logger.info("Writing %s", self.title)
        device, path = torch.device("cuda" if gpu and self.compiled else "cpu"), folder / self.file
        if device.type == "cuda" and not torch.cuda.is_available():
            raise CheckpointError(
                f"{self.title} is compiled for the GPU of the machine that exports it, and there "
                "is none here. Export where it is served, or leave --scorer-backend out."
            )
        here = model if device.type == "cpu" else copy.deepcopy(model).to(device)
        example = tuple(part.to(device) for part in random_inputs(model, 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.write(here, cast(Inputs, example), path)
            except Exception as error:  # the compilers raise errors of all kinds
                if not self.compiled:
                    raise
                raise CheckpointError(
                    f"{self.title} could not be compiled: {str(error).splitlines()[0]} It needs a "
                    "C++ compiler (g++) and its Python headers; without them leave "
                    "--scorer-backend out."
                ) from error
            read = self.read(path)

        def run(*inputs: Tensor) -> Sequence[Tensor]:
            return [output.cpu() for output in read(*(part.to(device) for part in inputs))]

        return _check(self.title, model, run, globals()[self.tolerance])


def _write_torchscript(model: nn.Module, _: Inputs, path: Path) -> None:
    archive = io.BytesIO()  # torch's own writer aborts the process when the disk is full
    torch.jit.save(torch.jit.script(model), archive)
    with zipfile.ZipFile(archive) as full, zipfile.ZipFile(path, "w") as small:
        for record in full.infolist():
            if not record.filename.endswith(".debug_pkl"):  # they hold the paths of this machine
                small.writestr(record, full.read(record))


def _read_torchscript(path: Path) -> Run:
    return torch.jit.load(str(path), map_location="cpu")


class _PlainTuple(nn.Module):
    """The scorer with a plain tuple as its result, the only one that Triton's PT2 reader knows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, quality_view: Tensor, semantic: Tensor, coherence: Tensor) -> Any:
        """Score a batch, as `MAAGIQA.forward`."""
        return tuple(self.model(quality_view, semantic, coherence))


def _batches() -> tuple[dict[int, Any], ...]:
    """A batch dimension that all inputs share, of any size that is served."""
    return ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH_SIZE)},) * len(INPUTS)


def _write_pt2(model: nn.Module, example: Inputs, path: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(_PlainTuple(model), example, dynamic_shapes=_batches())
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def _read_pt2(path: Path) -> Run:
    return torch._inductor.aoti_load_package(str(path))


def _write_onnx(model: nn.Module, example: Inputs, path: Path) -> None:
    program = torch.onnx.export(
        model,
        example,
        dynamo=True,
        dynamic_shapes=_batches(),
        input_names=INPUTS,
        output_names=[name.upper() for name in _output_names(model)],
        verbose=False,
    )
    cast(torch.onnx.ONNXProgram, program).save(str(path))


def _read_onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        named = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, named)]

    return run


def _numbered(pattern: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(pattern.format(name=name, i=i) for i, name in enumerate(names))


BACKENDS = {
    "libtorch": Backend(
        "TorchScript",
        "model.pt",
        _write_torchscript,
        _read_torchscript,
        inputs=_numbered("{name}__{i}", INPUTS),
        output="{name}__{i}",
        config={"platform": "pytorch_libtorch"},
        # The profiling executor compiles again, for seconds, at every new batch size.
        parameters={"DISABLE_OPTIMIZED_EXECUTION": "true"},
    ),
    "torch_aoti": Backend(
        "PT2",
        "model.pt2",
        _write_pt2,
        _read_pt2,
        inputs=_numbered("ARGS[{i}]", INPUTS),
        output="RESULT[{i}]",
        config={"platform": "torch_aoti", "backend": "pytorch"},
        compiled=True,
    ),
    "onnxruntime": Backend(
        "ONNX",
        "model.onnx",
        _write_onnx,
        _read_onnx,
        inputs=INPUTS,
        output="{name}",
        config={"backend": "onnxruntime"},
        tolerance="ONNX_TOLERANCE",
    ),
}
"""How the scorer can be served, by the name for `--scorer-backend`."""


def _output_names(model: nn.Module) -> tuple[str, ...]:
    return (ScorerOutput if isinstance(model, MAAGIQA) else CalibratedOutput)._fields


@torch.inference_mode()
def _check(format_name: str, model: Served, run: Run, tolerance: float) -> float:
    """Compare `run` with the eager model: relative to the largest value where that exceeds 1."""
    worst = 0.0
    for batch in CHECK_BATCHES:
        inputs = random_inputs(model, batch)
        for name, eager, other in zip(
            _output_names(model), model(*inputs), run(*inputs), strict=True
        ):
            if isinstance(model, UncalibratedScorer) and name in ("interval", "familiarity"):
                if not bool(other.isnan().all()):
                    raise CheckpointError(f"The {format_name} model's {name} is not NaN.")
                continue
            scale = max(1.0, float(eager.abs().max()))
            difference = float((eager - other).abs().max()) / scale
            if not difference <= tolerance:
                raise CheckpointError(
                    f"The {format_name} model's {name} differs from the eager model's by "
                    f"{difference:.3g} at batch {batch}; at most {tolerance:g} is accepted. "
                    "Nothing was written."
                )
            worst = max(worst, difference)
    sizes = ", ".join(map(str, CHECK_BATCHES))
    logger.info("%s equals the model to %.1e at batch sizes %s", format_name, worst, sizes)
    return worst
