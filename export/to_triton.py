"""Write a checkpoint into a Triton model repository as the next version of the served model.

\b
python export/to_triton.py                                  the demo model
python export/to_triton.py --checkpoint runs/my_model       a model you trained
python export/to_triton.py --checkpoint AGIQA_3k.pt --owl weights/mplug-owl2-llama2-7b

A server that is started afterwards serves the new version. With --activate, a running one does,
without a failed request, if the version gives the scores there that it gives in process:

\b
python export/to_triton.py --checkpoint runs/my_model --activate localhost:8001
python export/to_triton.py --rollback localhost:8001        back to the version before
python export/to_triton.py --list                           the versions, and which is active
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import serialize_byte_tensor

import rollout
import versions
from cards import card_parameters, official_card
from ma_agiqa._disk import explain_full_disk
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
from model_control import ModelControl, read_key
from scorer_formats import (
    ARITHMETICS,
    CHECK_BATCHES,
    choose_arithmetic,
    export_onnx,
    export_torchscript,
)
from triton_config import WARMUP_IMAGE, DeploymentSettings, repository_configs

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
DEMO_CHECKPOINT = ROOT / "training" / "checkpoints" / "demo"
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
    keep: int = KEEP,
    arithmetic: str = "auto",
) -> int:
    """Write the next version, and the configuration of every model; servers started now serve it.

    The version is written and checked in a hidden folder first and then moved into place: a
    failure or a crash before that leaves the repository as it was.

    Args:
        source: the checkpoint.
        repository: is made if it does not exist.
        owl: source of mPLUG-Owl2, as `ma_agiqa.presets.build_embedder` takes it.
        dtype: what mPLUG-Owl2's weights are kept in, of `ma_agiqa.presets.DTYPES`.
        gpu: serve on the GPU.
        say: is told about progress.
        keep: how many versions stay, this one included.
        arithmetic: of the scorer, one of `scorer_formats.ARITHMETICS`.

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
        arithmetic: of the scorer, one of `scorer_formats.ARITHMETICS`.

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


def _format_list(repository: Path) -> str:
    """One line for each kept version, the newest first."""
    active = versions.active_version(repository)
    lines = []
    for version in reversed(versions.kept_versions(repository)):
        card = versions.card_of(repository, version)
        state = "active" if version == active else "kept"
        lines.append(
            f"{version:>4}  {state:6}  {card['created']}  {card['checkpoint_sha256'][:12]}  "
            f"{card['name']}"
        )
    return "\n".join(lines) or f"No versions in {repository}."


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
    "CPU. At the paper's size 16 bits take 16.1 GB, int8 8.2 and int4 5.1, at a loss that "
    "`python -m ma_agiqa.benchmark dtypes` shows on your images.",
)
@click.option(
    "--activate",
    metavar="HOST:PORT",
    multiple=True,
    help="Have the running server at this gRPC address, which serves --repository, check and serve "
    "the new version. Repeat it for every server of the repository.",
)
@click.option(
    "--rollback",
    metavar="HOST:PORT",
    multiple=True,
    help="Write nothing new: have the running server serve the kept version before the active one.",
)
@click.option("--to", metavar="VERSION", type=int, help="The version that --rollback goes to.")
@click.option("--list", "list_versions", is_flag=True, help="List the kept versions.")
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(min=2),
    default=KEEP,
    show_default=True,
    help="Versions that stay, the new one included; each takes the memory of a scorer.",
)
@click.option(
    "--admin-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of the servers. Default: $MA_AGIQA_ADMIN_KEY, or what deploy/serve.py wrote into logs/.",
)
@click.option(
    "--scorer",
    "arithmetic",
    type=click.Choice(ARITHMETICS),
    default="auto",
    show_default=True,
    help="Arithmetic of the scorer: exact is the authors' order of operations, the types are "
    "faster and refused where they change the scores; auto is float32 or exact.",
)
def main(
    checkpoint: str | None,
    owl: str | None,
    preset: str | None,
    repository: Path,
    device: str,
    dtype: str | None,
    activate: tuple[str, ...],
    rollback: tuple[str, ...],
    to: int | None,
    list_versions: bool,
    keep: int,
    admin_key_file: Path | None,
    arithmetic: str,
) -> None:
    if activate and rollback:
        raise click.UsageError("--activate and --rollback exclude one another.")
    try:
        with ExitStack() as stack:
            servers = [
                stack.enter_context(ModelControl(url, read_key(url, admin_key_file)))
                for url in activate or rollback
            ]
            if list_versions:
                sentence = _format_list(repository)
            elif rollback:
                sentence = _roll_back(repository, servers, to)
            elif activate:
                source = _read_source(checkpoint, preset)
                version = export_and_activate(
                    source, repository, owl, servers, _say, keep, arithmetic
                )
                sentence = f"Version {version} of {source.card.name} is active at {_urls(servers)}."
            else:
                source = _read_source(checkpoint, preset)
                gpu = torch.cuda.is_available() if device == "auto" else device == "gpu"
                sentence = _write(source, repository, owl, dtype, gpu, keep, arithmetic)
    except (MAAGIQAError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(sentence)


def _write(
    source: Source,
    repository: Path,
    owl: str | None,
    dtype: str | None,
    gpu: bool,
    keep: int,
    arithmetic: str,
) -> str:
    preset = source.card.preset
    owl = choose_owl(owl, preset)
    usual = "float32" if preset == "demo" else "float16" if gpu else "bfloat16"
    dtype = DTYPE_ALIASES.get(dtype or usual, dtype or usual)
    version = export(source, repository, owl, dtype, gpu, _say, keep, arithmetic)
    return (
        f"Wrote version {version} of {source.card.name} to {repository} "
        f"(mPLUG-Owl2: {owl}, {dtype}, on the {'GPU' if gpu else 'CPU'})."
    )


def _roll_back(repository: Path, servers: Sequence[ModelControl], to: int | None) -> str:
    with rollout.locked(repository):
        version = rollout.roll_back(repository, servers, to, _say)
    return f"Version {version} is active at {_urls(servers)}."


def _urls(servers: Sequence[ModelControl]) -> str:
    return ", ".join(server.url for server in servers)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _read_source(checkpoint: str | None, preset: str | None) -> Source:
    """Read the checkpoint that the options ask for."""
    source = read_checkpoint(choose_checkpoint(checkpoint, preset))
    if preset and preset != source.card.preset:
        raise ConfigError(
            f"--preset {preset}: the checkpoint is of preset {source.card.preset!r}. "
            "Leave --preset out."
        )
    return source


if __name__ == "__main__":
    main()
