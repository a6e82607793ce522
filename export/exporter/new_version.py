"""Writes a checkpoint into a model repository as a new version, and has running servers take it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import serialize_byte_tensor

from exporter import rollout, versions
from exporter.cards import card_parameters
from exporter.config import WARMUP_IMAGE, DeploymentSettings, repository_configs
from exporter.formats import CHECK_BATCHES, choose_arithmetic, export_onnx, export_torchscript
from exporter.model_control import ModelControl
from ma_agiqa.checkpoints import ModelCard, checkpoint_sha256, load_scorer
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.files import explain_full_disk
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, PAPER_EMBEDDER, embedder_config
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.tensors import tensor_specs

__all__ = [
    "KEEP",
    "REPOSITORY",
    "Source",
    "choose_owl",
    "export",
    "export_and_activate",
    "read_checkpoint",
]

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
ADAPTERS = (
    "preprocess/1/model.py",
    "mplug_owl2/1/model.py",
    "meter/1/model.py",
    "mplug_owl2_answer/1/model.py",
)
QUEUE_DELAY_US = 1000
KEEP = 2
"""Versions that stay: the active one, and one to go back to."""

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
    return Source(*load_scorer(path), checkpoint_sha256(path))


def export(
    source: Source,
    repository: Path,
    owl: str,
    dtype: str,
    gpu: bool,
    say: Say = lambda _: None,
    keep: int = KEEP,
    arithmetic: str = "auto",
) -> int:
    """Write the next version, and the configuration of every model; servers started now serve it.

    The version is written and checked in a hidden folder first and then moved into place: a
    failure or a crash before that leaves the repository as it was.

    Args:
        source: the checkpoint.
        repository: is made if it does not exist.
        owl: source of mPLUG-Owl2, as `ma_agiqa.lmm.sources.build_embedder` takes it.
        dtype: what mPLUG-Owl2's weights are kept in, of `ma_agiqa.lmm.sources.DTYPES`.
        gpu: serve on the GPU.
        say: is told about progress.
        keep: how many versions stay, this one included.
        arithmetic: of the scorer, one of `formats.ARITHMETICS`.

    Returns:
        The number of the version.

    Raises:
        CheckpointError: the scorer and mPLUG-Owl2 do not fit, or an exported format computes
            something else than the model.
        ConfigError: another export is at work on the repository.
    """
    build = _config_builder(source, owl, dtype, gpu)
    with _at_work(repository) as staging:
        _write_formats(source, staging / "version", arithmetic, gpu, say)
        _write_warmup_image(staging / WARMUP_IMAGE)
        version = versions.next_version(repository)
        configs = build(version)
        fitting = versions.kept_versions(repository) if _fits(repository, configs) else []
        _copy_adapters(repository)
        os.rename(staging / "version", repository / versions.SCORER / str(version))
        _publish(staging, repository, configs, version, fitting, say)
        rollout.prune(repository, (), keep, say)
        return version


def export_and_activate(
    source: Source,
    repository: Path,
    owl: str | None,
    servers: Sequence[ModelControl],
    say: Say = lambda _: None,
    keep: int = KEEP,
    arithmetic: str = "auto",
) -> int:
    """Write the next version and have running servers of this repository serve it.

    Args:
        source: the checkpoint.
        repository: what the servers serve.
        owl: source of mPLUG-Owl2; the repository's if None.
        servers: all of them.
        say: is told about progress.
        keep: how many versions stay, this one included.
        arithmetic: of the scorer, one of `formats.ARITHMETICS`.

    Returns:
        The number of the version.

    Raises:
        CheckpointError: as in `export`, or a server does not score as expected; nothing changed.
        ConfigError: the version needs another mPLUG-Owl2 or other tensors than are served, or the
            servers do not let their models be changed.
    """
    served = versions.read_config(repository, "mplug_owl2").parameters
    build = _config_builder(
        source,
        choose_owl(owl or served["weights"].string_value, source.card.preset),
        served["dtype"].string_value,
        gpu=False,
    )
    with _at_work(repository) as staging:
        version = versions.next_version(repository)
        configs = build(version)
        if not _fits(repository, configs):
            raise ConfigError(
                "The checkpoint needs another mPLUG-Owl2, or tensors of other sizes, than are "
                f"served from {repository}. Export it without --activate and restart the server, "
                "or into a repository of its own for a second server."
            )
        gpu = versions.run_on_gpu(repository)
        scorer = _write_formats(source, staging / "version", arithmetic, gpu, say)
        golden = rollout.make_golden(repository, scorer, servers[0])
        folder = repository / versions.SCORER / str(version)
        os.rename(staging / "version", folder)
        try:
            rollout.activate(repository, version, configs["ma_agiqa"], servers, golden, say)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        rollout.prune(repository, servers, keep, say)
        return version


def _config_builder(
    source: Source, owl: str, dtype: str, gpu: bool
) -> Callable[[int], dict[str, str]]:
    """Check that scorer and LMM fit; return what writes the configurations of a version."""
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

    def build(version: int) -> dict[str, str]:
        card = card_parameters(source.card, scorer.gate_activation, source.sha256, version)
        return repository_configs(specs, card, settings, version)

    return build


def _write_formats(source: Source, folder: Path, arithmetic: str, gpu: bool, say: Say) -> MAAGIQA:
    """Write TorchScript and ONNX; return the scorer as it is served."""
    folder.mkdir()
    say("TorchScript")
    mos_range = source.card.mos_max - source.card.mos_min
    served = choose_arithmetic(source.model, arithmetic, gpu, mos_range)
    say(f"The scorer computes {'exactly' if served is source.model else 'in the fast order'}")
    difference = export_torchscript(served, folder / "model.pt")
    say(f"TorchScript equals the model to {difference:.1e} at batch {CHECK_BATCHES}")
    say("ONNX")
    difference = export_onnx(source.model, folder / "model.onnx")
    say(f"ONNX equals the model to {difference:.1e} at batch {CHECK_BATCHES}")
    return served


def _fits(repository: Path, configs: dict[str, str]) -> bool:
    """Whether a version of these configurations can be served beside those that are there."""
    for name in ("mplug_owl2", versions.SCORER):
        if not (repository / name / "config.pbtxt").is_file():
            return False
        served = versions.read_config(repository, name)
        new = text_format.Parse(configs[name], model_config_pb2.ModelConfig())
        if list(served.input) != list(new.input) or list(served.output) != list(new.output):
            return False
        if any(
            served.parameters[key].string_value != new.parameters[key].string_value
            for key in ("weights", "dtype")
        ):
            return False
    return True


@contextmanager
def _at_work(repository: Path) -> Iterator[Path]:
    """Lock the repository and make a folder in it; explain a full disk."""
    with (
        rollout.locked(repository),
        explain_full_disk(repository),
        _staging(repository) as staging,
    ):
        yield staging


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Make a folder on the repository's disk that Triton ignores, and remove it afterwards."""
    scorer = repository / "maniqa_moe"
    scorer.mkdir(parents=True, exist_ok=True)
    for left in scorer.glob(".export-*"):  # by an export that was killed: this one has the lock
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=scorer))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(
    staging: Path,
    repository: Path,
    configs: dict[str, str],
    version: int,
    fitting: Sequence[int],
    say: Say,
) -> None:
    """Write the configurations, the one that clients ask for last."""
    warmup = repository / "preprocess" / "warmup"
    warmup.mkdir(parents=True, exist_ok=True)
    os.replace(staging / WARMUP_IMAGE, warmup / WARMUP_IMAGE)
    for old in set(versions.kept_versions(repository)) - set(fitting):
        shutil.rmtree(repository / versions.ensemble_name(old))
        say(f"Version {old} does not fit the new mPLUG-Owl2 or tensors and is not served any more.")
    for name in sorted(set(configs) - {versions.ENSEMBLE, versions.SCORER}):
        versions.write_config(repository, name, configs[name])
    scorer = versions.with_policy(configs[versions.SCORER], {*fitting, version})
    versions.write_config(repository, versions.SCORER, scorer)
    versions.write_version(repository, version, configs[versions.ENSEMBLE])
    versions.set_active(repository, version)


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
