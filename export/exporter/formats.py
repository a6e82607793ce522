"""The scorer as TorchScript and as ONNX, each checked against the eager model.

TorchScript is what is served. `choose_arithmetic` decides how it computes: in the exact order of
the authors' code, or faster where the scores stay the same within a tolerance.
"""

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import onnxruntime
import torch
from torch import Tensor

from ma_agiqa.errors import CheckpointError
from ma_agiqa.networks.calibration import CalibratedOutput, CalibratedScorer, UncalibratedScorer
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, ScorerOutput
from ma_agiqa.tensors import MAX_BATCH_SIZE

ARITHMETICS = ("auto", "exact", "float32", "bfloat16")
"""How the served scorer computes.

exact: float32 in the order of the authors' code. float32, bfloat16: the faster order, in that
type. auto: the faster float32 where it equals the exact one to `TORCHSCRIPT_TOLERANCE`, else exact.
"""

SCORE_TOLERANCE = 0.01
"""Largest change of a score by bfloat16 that is served, where MOS runs from 0 to 5."""

CHECK_BATCHES = (1, 3, 8)
TORCHSCRIPT_TOLERANCE = 1e-4
ONNX_TOLERANCE = 1e-3

_IMAGES = 8  # on which arithmetics are compared

INPUTS = ("QUALITY_VIEW", "SEMANTIC", "COHERENCE")

logger = logging.getLogger(__name__)

Inputs = tuple[Tensor, Tensor, Tensor]

Served = MAAGIQA | CalibratedScorer | UncalibratedScorer
"""A scorer without intervals, with them, or with NaN in their place."""


def choose_arithmetic(model: MAAGIQA, arithmetic: str, gpu: bool, mos_range: float) -> MAAGIQA:
    """Make the scorer that is served.

    Args:
        model: the scorer with the exact arithmetic.
        arithmetic: one of `ARITHMETICS`.
        gpu: whether it is served on the GPU.
        mos_range: length of the scale of its scores.

    Returns:
        `model` itself where the exact arithmetic is chosen.

    Raises:
        CheckpointError: an arithmetic was asked for by name and changes the scores too much.
    """
    if arithmetic == "exact":
        logger.info("The scorer computes exactly")
        return model
    dtype = torch.float32 if arithmetic == "auto" else getattr(torch, arithmetic)
    fast = accelerate(model, dtype, gpu=gpu)
    names: tuple[str, ...] = ("score",)
    limit = SCORE_TOLERANCE * mos_range / 5
    if dtype == torch.float32:
        names, limit = ScorerOutput._fields, TORCHSCRIPT_TOLERANCE
    change = _largest_change(model, fast, names, limit)
    if change <= limit:
        logger.info(
            "The scorer computes in the fast order (%s): its outputs change by at most %.1e",
            str(dtype).removeprefix("torch."),
            change,
        )
        return fast
    if arithmetic == "auto":
        logger.info("The scorer computes exactly: the fast order would change it by %.1e", change)
        return model
    raise CheckpointError(
        f"--scorer {arithmetic} would change the outputs by {change:.3g}; at most {limit:g} is "
        "accepted. Choose --scorer exact."
    )


def export_torchscript(model: Served, path: Path) -> float:
    """Write TorchScript and check what was written.

    Returns:
        The largest difference from the eager model.

    Raises:
        CheckpointError: it exceeds `TORCHSCRIPT_TOLERANCE`.
    """
    logger.info("Writing TorchScript")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        buffer = io.BytesIO()  # torch's own writer aborts the process when the disk is full
        torch.jit.save(torch.jit.script(model), buffer)
        path.write_bytes(_without_source_paths(buffer))
        loaded = torch.jit.load(str(path), map_location="cpu")
    return _check("TorchScript", model, loaded, TORCHSCRIPT_TOLERANCE)


def _without_source_paths(archive: io.BytesIO) -> bytes:
    """Drop the debug records of a TorchScript archive, which hold the paths of this machine."""
    kept = io.BytesIO()
    with zipfile.ZipFile(archive) as full, zipfile.ZipFile(kept, "w") as small:
        for record in full.infolist():
            if not record.filename.endswith(".debug_pkl"):
                small.writestr(record, full.read(record))
    return kept.getvalue()


def export_onnx(model: Served, path: Path) -> float:
    """Write ONNX with a free batch dimension, through `torch.export`, and check what was written.

    Returns:
        The largest difference from the eager model, under ONNX Runtime.

    Raises:
        CheckpointError: it exceeds `ONNX_TOLERANCE`.
    """
    logger.info("Writing ONNX")
    outputs = [name.upper() for name in _output_names(model)]
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH_SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            _random_inputs(model, 2),
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
            input_names=INPUTS,
            output_names=outputs,
            verbose=False,
        )
    cast(torch.onnx.ONNXProgram, program).save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        named = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(outputs, named)]

    return _check("ONNX", model, run, ONNX_TOLERANCE)


def _output_names(model: Served) -> tuple[str, ...]:
    return (ScorerOutput if isinstance(model, MAAGIQA) else CalibratedOutput)._fields


def _random_inputs(model: Served, batch: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    side, width = model.config.image_size, model.config.semantic_dim
    view = torch.randint(0, 256, (batch, side, side, 3), generator=generator, dtype=torch.uint8)
    semantic, coherence = torch.randn(2, batch, width, generator=generator)
    return view, semantic, coherence


@torch.inference_mode()
def _largest_change(model: MAAGIQA, fast: MAAGIQA, names: Sequence[str], limit: float) -> float:
    """Compare image by image, up to the first one that changes by more than `limit`.

    Scores alone are compared as they are; several outputs relative to the largest value of each
    where that exceeds 1.
    """
    worst = 0.0
    for one in zip(*(part.split(1) for part in _random_inputs(model, _IMAGES)), strict=True):
        exact, other = model(*one), fast(*one)
        for name in names:
            expected, got = getattr(exact, name), getattr(other, name)
            scale = 1.0 if len(names) == 1 else max(1.0, float(expected.abs().max()))
            worst = max(worst, float((expected - got).abs().max()) / scale)
        if not worst <= limit:
            break
    return worst


@torch.inference_mode()
def _check(
    format_name: str, model: Served, run: Callable[..., Sequence[Tensor]], tolerance: float
) -> float:
    """Compare `run` with the eager model: relative to the largest value where that exceeds 1."""
    worst = 0.0
    for batch in CHECK_BATCHES:
        inputs = _random_inputs(model, batch)
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
