"""Write a checkpoint into a Triton model repository as the next version of the served model.

python export/to_triton.py                                  the demo model
python export/to_triton.py --checkpoint runs/my_model       a model you trained
python export/to_triton.py --checkpoint AGIQA_3k.pt --owl weights/mplug-owl2-llama2-7b
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from tritonclient.utils import serialize_byte_tensor

from cards import card_parameters, official_card
from ma_agiqa.checkpoint import ModelCard, checkpoint_sha256, load_checkpoint
from ma_agiqa.errors import CheckpointError, ConfigError, MAAGIQAError
from ma_agiqa.presets import (
    DEMO_EMBEDDER,
    DTYPE_ALIASES,
    DTYPES,
    PAPER_EMBEDDER,
    embedder_config,
)
from ma_agiqa.scorer import MAAGIQA
from ma_agiqa.tensors import tensor_specs
from scorer_formats import CHECK_BATCHES, export_onnx, export_torchscript
from triton_config import WARMUP_IMAGE, DeploymentSettings, repository_configs

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
DEMO_CHECKPOINT = ROOT / "training" / "checkpoints" / "demo"
ADAPTERS = (
    "ma_agiqa/1/.gitkeep",
    "preprocess/1/model.py",
    "mplug_owl2/1/model.py",
    "mplug_owl2_answer/1/model.py",
)
QUEUE_DELAY_US = 1000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read."""

    model: MAAGIQA
    card: ModelCard
    sha256: str


def read_checkpoint(path: Path) -> Source:
    """Read a checkpoint folder of ours, or a `.pt` file of the authors' code.

    Raises:
        CheckpointError: it cannot be read or does not fit.
    """
    if path.is_dir():
        model, card = load_checkpoint(path)
        return Source(model, card, checkpoint_sha256(path))
    model = MAAGIQA.from_official(path)
    with open(path, "rb") as file:
        return Source(model, official_card(), hashlib.file_digest(file, "sha256").hexdigest())


def export(
    source: Source,
    repository: Path,
    owl: str,
    dtype: str,
    gpu: bool,
    say: Say = lambda _: None,
) -> int:
    """Write the next version, and the configuration of every model.

    Everything is written and checked in a hidden folder first and then moved into place: a
    failure or a crash before that leaves the repository as it was.

    Args:
        source: the checkpoint.
        repository: is made if it does not exist.
        owl: source of mPLUG-Owl2, as `ma_agiqa.presets.build_embedder` takes it.
        dtype: what mPLUG-Owl2's weights are kept in, of `ma_agiqa.presets.DTYPES`.
        gpu: serve on the GPU.
        say: is told about progress.

    Returns:
        The number of the version.

    Raises:
        CheckpointError: the scorer and mPLUG-Owl2 do not fit, or an exported format computes
            something else than the model.
    """
    owl_config = embedder_config(owl)
    scorer = source.model.config
    if scorer.semantic_dim != owl_config.hidden_size:
        raise CheckpointError(
            f"The checkpoint was trained on prompt embeddings of width {scorer.semantic_dim}; "
            f"{owl} gives {owl_config.hidden_size}. Give the --owl it was trained with."
        )
    specs = tensor_specs(
        owl_config.vision.image_size, owl_config.hidden_size, scorer.image_size, source.model.grid
    )
    small = source.card.preset == "demo"
    settings = DeploymentSettings(
        owl, dtype, gpu, QUEUE_DELAY_US, warmup_batches=(1, 8) if small or gpu else (1,)
    )
    card = card_parameters(source.card, scorer.gate_activation, source.sha256)
    configs = repository_configs(specs, card, settings)
    with _staging(repository) as staging:
        model_folder = staging / "version"
        model_folder.mkdir()
        say("TorchScript")
        difference = export_torchscript(source.model, model_folder / "model.pt")
        say(f"TorchScript equals the model to {difference:.1e} at batch {CHECK_BATCHES}")
        say("ONNX")
        difference = export_onnx(source.model, model_folder / "model.onnx")
        say(f"ONNX equals the model to {difference:.1e} at batch {CHECK_BATCHES}")
        _write_warmup_image(staging / WARMUP_IMAGE)
        for name, text in configs.items():
            (staging / f"{name}.pbtxt").write_text(text, encoding="utf-8")
        _copy_adapters(repository)
        return _publish(staging, repository, configs)


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Make a folder on the repository's disk that Triton ignores, and remove it afterwards."""
    scorer = repository / "maniqa_moe"
    scorer.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=scorer))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(staging: Path, repository: Path, configs: dict[str, str]) -> int:
    """Move what was staged into place, the version last: Triton serves the newest one."""
    warmup = repository / "preprocess" / "warmup"
    warmup.mkdir(parents=True, exist_ok=True)
    os.replace(staging / WARMUP_IMAGE, warmup / WARMUP_IMAGE)
    for name in configs:
        os.replace(staging / f"{name}.pbtxt", repository / name / "config.pbtxt")
    versions = [int(p.name) for p in (repository / "maniqa_moe").iterdir() if p.name.isdigit()]
    version = max(versions, default=0) + 1
    os.rename(staging / "version", repository / "maniqa_moe" / str(version))
    return version


def _copy_adapters(repository: Path) -> None:
    for name in ADAPTERS:
        target = repository / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, target)


def _write_warmup_image(path: Path) -> None:
    """Write a small gradient as the BYTES tensor that warms up `preprocess`."""
    y, x = np.mgrid[0:96, 0:128]
    image = Image.fromarray(np.stack([x, y, x + y], axis=-1).astype(np.uint8))
    with tempfile.TemporaryFile() as file:
        image.save(file, "PNG")
        file.seek(0)
        tensor = serialize_byte_tensor(np.array([file.read()], dtype=np.object_))
    path.write_bytes(tensor.item())


def choose_owl(owl: str | None, preset: str) -> str:
    """Settle the source of mPLUG-Owl2; a folder becomes an absolute path."""
    if owl is None:
        return DEMO_EMBEDDER if preset == "demo" else PAPER_EMBEDDER
    return str(Path(owl).resolve()) if Path(owl).is_dir() else owl


def choose_checkpoint(checkpoint: str | None, preset: str | None) -> Path:
    """Settle the checkpoint.

    Raises:
        ConfigError: the paper's model is asked for and no checkpoint is given.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    if preset == "paper":
        raise ConfigError(
            "The paper's scorer is not part of this repository. Fetch it with `make paper`, or "
            "give yours with --checkpoint."
        )
    return DEMO_CHECKPOINT


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--checkpoint", help="Checkpoint folder, or .pt file of the authors' code.")
@click.option("--owl", help="mPLUG-Owl2: hub id, local folder, or 'demo'.")
@click.option("--preset", type=click.Choice(["demo", "paper"]), help="Default: the checkpoint's.")
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=REPOSITORY,
    show_default="model_repository",
    help="Where to write; made if it does not exist.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where Triton runs the networks; auto: the GPU if this machine has one.",
)
@click.option(
    "--dtype",
    type=click.Choice([*DTYPE_ALIASES, *DTYPES]),
    help="Of mPLUG-Owl2's weights. Default: float32 for the demo; else float16 on GPU, bfloat16 on "
    "CPU. At the paper's size 16 bits take 16.4 GB, int8 8.7 and int4 5.1, at a loss that "
    "`python -m ma_agiqa.benchmark dtypes` shows on your images.",
)
def main(
    checkpoint: str | None,
    owl: str | None,
    preset: str | None,
    repository: Path,
    device: str,
    dtype: str | None,
) -> None:
    gpu = torch.cuda.is_available() if device == "auto" else device == "gpu"
    try:
        path = choose_checkpoint(checkpoint, preset)
        source = read_checkpoint(path)
        preset = preset or source.card.preset
        if preset != source.card.preset:
            raise ConfigError(
                f"--preset {preset}: the checkpoint is of preset {source.card.preset!r}. "
                "Leave --preset out."
            )
        chosen = choose_owl(owl, preset)
        usual = "float32" if preset == "demo" else "float16" if gpu else "bfloat16"
        dtype = DTYPE_ALIASES.get(dtype or usual, dtype or usual)
        version = export(
            source, repository, chosen, dtype, gpu, say=lambda text: click.echo(text, err=True)
        )
    except (MAAGIQAError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"Wrote version {version} of {source.card.name} to {repository} "
        f"(mPLUG-Owl2: {chosen}, {dtype}, on the {'GPU' if gpu else 'CPU'})."
    )


if __name__ == "__main__":
    main()
