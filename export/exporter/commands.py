"""The commands of `python export/to_triton.py`."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from exporter import rollout, versions
from exporter.formats import BACKENDS
from exporter.model_control import ModelControl, read_credentials, read_key
from exporter.new_version import KEEP, REPOSITORY, NewVersion, Source
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.lmm.alignment import AlignmentMethod
from ma_agiqa.lmm.mplug_owl2.quantization import QUANTIZED
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, DTYPE_ALIASES, DTYPES, PAPER_EMBEDDER
from ma_agiqa.networks.arithmetic import ARITHMETICS

DEMO_CHECKPOINT = Path(__file__).resolve().parents[2] / "training" / "checkpoints" / "demo"

_F = TypeVar("_F", bound=Callable[..., Any])

_DTYPE = click.Choice([*DTYPE_ALIASES, *DTYPES])

_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)

_checkpoint = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder that training wrote, or .pt file of the authors' code. Default: the demo model.",
)
_repository = click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=REPOSITORY,
    show_default="model_repository",
    help="Folder of the served models.",
)
_scorer = click.option(
    "--scorer",
    "arithmetic",
    type=click.Choice(ARITHMETICS),
    default="auto",
    show_default=True,
    help="Arithmetic of the scorer. exact is the authors' order of operations; the others are "
    "faster, and refused if they change the scores; auto is the first that does not: float32 on a "
    "CPU; float16, bfloat16 or float32 on a GPU; else exact.",
)
_keep = click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(min=2),
    default=KEEP,
    show_default=True,
    help="Number of versions to keep, with the new one; each takes the memory of a scorer.",
)
_servers = click.argument("servers", metavar="HOST:PORT...", nargs=-1, required=True)


def _access(command: _F) -> _F:
    """Add the options that say how to reach the servers, which `_connect` takes."""
    options = (
        click.option(
            "--admin-key-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File with the servers' administrator key. Default: $MA_AGIQA_ADMIN_KEY, or the "
            "file that deploy/serve.py wrote into logs/.",
        ),
        click.option("--tls-ca", type=_PEM, help="Encrypt; certificate of the servers' issuer."),
        click.option("--tls-cert", type=_PEM, help="Own certificate, for mutual TLS."),
        click.option("--tls-key", type=_PEM, help="Private key of the own certificate."),
        click.option(
            "--token",
            envvar="MA_AGIQA_TOKEN",
            show_envvar=True,
            help="Bearer token. Prefer the variable: other users can see a command line.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class _Commands(click.Group):
    """Runs `export` if no command is named, reports progress and foreseen errors on stderr."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["export", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        logger = logging.getLogger("exporter")
        progress = logging.StreamHandler(sys.stderr)
        logger.setLevel(logging.INFO)
        logger.addHandler(progress)
        try:
            return super().invoke(ctx)
        except (MAAGIQAError, OSError) as error:
            raise click.ClickException(str(error)) from error
        finally:
            logger.removeHandler(progress)


@click.group(
    cls=_Commands,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
def main() -> None:
    """Write checkpoints into a Triton model repository as versions of the served model.

    Without a command, `export` runs; `to_triton.py export --help` shows its options.

    \b
    python export/to_triton.py                                    export the demo model
    python export/to_triton.py --checkpoint runs/my_model         export a model you trained
    python export/to_triton.py activate localhost:8001 --checkpoint runs/my_model
                                                                  have a running server take it
    python export/to_triton.py rollback localhost:8001            back to the previous version
    python export/to_triton.py list                               the versions that are kept
    """


@main.command()
@_checkpoint
@click.option(
    "--preset",
    type=click.Choice(["demo", "paper"]),
    help="Refuse a checkpoint of the other preset. Default: take the checkpoint's.",
)
@click.option(
    "--embedder",
    metavar="SOURCE",
    help="mPLUG-Owl2: hub id, local folder, or 'demo'. It must have the weights that the scorer "
    f"was trained with. Default: where they were then; for the authors' file, {PAPER_EMBEDDER}.",
)
@click.option(
    "--dtype",
    type=_DTYPE,
    help="Type of mPLUG-Owl2's weights. Default: that of the training; for the authors' file "
    "float16 on a GPU, bfloat16 on a CPU. At the paper's size 16 bits take 16.1 GB, int8 8.2 and "
    "int4 4.7, at a loss that `python -m ma_agiqa benchmark dtypes` shows on your images.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where Triton runs the networks; auto is the GPU if this machine has one.",
)
@_scorer
@click.option(
    "--scorer-backend",
    "backend",
    type=click.Choice(list(BACKENDS)),
    default="libtorch",
    show_default=True,
    help="What serves the scorer. torch_aoti (Triton 26.06 or later) and onnxruntime are in "
    "Triton's container only, not in the embedded server.",
)
@click.option(
    "--alignment-question",
    metavar="TEXT",
    default=AlignmentMethod.question,
    show_default=True,
    help="What mPLUG-Owl2 is asked about an image and its prompt, which {prompt} stands for.",
)
@click.option(
    "--alignment-answer",
    metavar="WORD[/WORD]",
    default=AlignmentMethod.answer,
    show_default=True,
    help="The alignment is the probability of this word; with a second one, such as Yes/No, "
    "divided by that of both.",
)
@_repository
@_keep
def export(
    checkpoint: Path | None,
    preset: str | None,
    embedder: str | None,
    dtype: str | None,
    device: str,
    arithmetic: str,
    backend: str,
    alignment_question: str,
    alignment_answer: str,
    repository: Path,
    keep: int,
) -> None:
    """Write a checkpoint as the next version (default).

    Servers that are started afterwards serve it; none is contacted. The repository is made if it
    does not exist.

    \b
    python export/to_triton.py --repository runs/my_repository
    python export/to_triton.py --checkpoint runs/my_model --device gpu
    python export/to_triton.py --checkpoint AGIQA_3k.pt --embedder weights/mplug-owl2-llama2-7b
    """
    if checkpoint is None and preset == "paper":
        raise ConfigError(
            "The paper's scorer is not part of this repository. Fetch it with `make paper`, or "
            "give yours with --checkpoint."
        )
    source = Source.read(checkpoint or DEMO_CHECKPOINT)
    if preset and preset != source.card.preset:
        raise ConfigError(
            f"The checkpoint is of preset {source.card.preset!r}, not {preset!r}. Leave --preset "
            "out, or give another --checkpoint."
        )
    trained = source.card.embedder
    gpu = torch.cuda.is_available() if device == "auto" else device == "gpu"
    embedder = embedder or trained.get("source") or PAPER_EMBEDDER
    if embedder != DEMO_EMBEDDER and Path(embedder).is_dir():
        embedder = str(Path(embedder).resolve())  # servers are started in other folders
    usual = "float32" if embedder == DEMO_EMBEDDER else "float16" if gpu else "bfloat16"
    served = _long_name(dtype) or trained.get("dtype") or usual
    answer, slash, against = alignment_answer.partition("/")
    method = AlignmentMethod(alignment_question, answer, against if slash else None)
    identity = EmbedderIdentity.of(embedder, served)
    new = NewVersion(
        source,
        repository,
        identity,
        gpu,
        arithmetic,
        keep,
        any_dtype=bool(dtype),
        backend=backend,
        alignment=method,
    )
    version = new.publish()
    click.echo(
        f"Wrote version {version} of {source.card.name} to {repository} "
        f"(mPLUG-Owl2: {embedder}, {served}, on the {'GPU' if gpu else 'CPU'})."
    )
    if served in QUANTIZED and served != trained.get("dtype"):
        click.echo(
            "Before you serve it, see what that dtype does to the scores of your images:\n"
            f"python -m ma_agiqa benchmark dtypes --embedder {embedder} --checkpoint "
            f"{checkpoint or DEMO_CHECKPOINT} --dtype {served} IMAGES...",
            err=True,
        )


def _long_name(dtype: str | None) -> str | None:
    return DTYPE_ALIASES.get(dtype, dtype) if dtype else None


@main.command()
@_servers
@_checkpoint
@click.option(
    "--dtype",
    type=_DTYPE,
    help="The type of mPLUG-Owl2's weights at the servers, where the checkpoint was trained in "
    "another and you accept what that changes.",
)
@_scorer
@_repository
@_keep
@click.option(
    "--accept-regression",
    is_flag=True,
    help="Serve it even if it was measured to be worse than the active version: SRCC or PLCC lower "
    "by more than 0.02, RMSE higher by more than 5 %, or coverage lower by more than 0.05.",
)
@_access
def activate(
    servers: Sequence[str],
    checkpoint: Path | None,
    dtype: str | None,
    arithmetic: str,
    repository: Path,
    keep: int,
    accept_regression: bool,
    **access: Any,
) -> None:
    """Write a checkpoint and have running servers switch to it.

    Name the gRPC address of every server of the repository. Each loads the version next to the
    active one and must give the scores that it has in this process; then they switch, and no
    request fails. Before that, its measured numbers are shown next to those of the active version,
    and a version that is worse is refused. If one does not pass, all serve what they did.

    mPLUG-Owl2, its dtype and the device stay as they are served, and a checkpoint that was trained
    with another mPLUG-Owl2 is refused: to change those, use `export` and restart the servers.

    \b
    python export/to_triton.py activate localhost:8001 --checkpoint runs/my_model
    python export/to_triton.py activate gpu1:8001 gpu2:8001 --checkpoint runs/my_model \\
        --repository /shared/models --admin-key-file admin.key
    """
    source = Source.read(checkpoint or DEMO_CHECKPOINT)
    new = NewVersion.for_running(source, repository, arithmetic, keep, _long_name(dtype))
    with _connect(servers, **access) as controls:
        version = new.activate(controls, accept_regression)
    click.echo(f"Version {version} of {source.card.name} is active at {', '.join(servers)}.")


@main.command()
@_servers
@click.option(
    "--to",
    metavar="VERSION",
    type=int,
    help="A kept version, older or newer. Default: the one before the active one.",
)
@_repository
@_access
def rollback(servers: Sequence[str], to: int | None, repository: Path, **access: Any) -> None:
    """Have running servers serve a version that was kept.

    It is checked as in `activate`, and is loaded already: the switch takes moments.

    \b
    python export/to_triton.py rollback localhost:8001
    python export/to_triton.py rollback localhost:8001 --to 3
    """
    with _connect(servers, **access) as controls, rollout.locked(repository):
        version = rollout.roll_back(repository, controls, to)
    click.echo(f"Version {version} is active at {', '.join(servers)}.")


@main.command("list")
@_repository
def list_versions(repository: Path) -> None:
    """List the versions that are kept, the newest first.

    Shows number, state, time of the export, start of the checkpoint's SHA-256, and name.

    \b
    python export/to_triton.py list --repository runs/my_repository
    """
    active, kept = versions.active_version(repository), versions.kept_versions(repository)
    for version in reversed(kept):
        card = versions.card_of(repository, version)
        state = "active" if version == active else "kept"
        sha256 = card["checkpoint_sha256"][:12]
        click.echo(f"{version:>4}  {state:6}  {card['created']}  {sha256}  {card['name']}")
    if not kept:
        click.echo(f"No versions in {repository}.")


@main.command()
@click.argument("version", type=int)
@_repository
def forget(version: int, repository: Path) -> None:
    """Remove a kept version that is not active.

    A running server serves it until it is restarted. A version whose file is damaged, with which no
    server starts, can be removed this way.

    \b
    python export/to_triton.py forget 3 --repository runs/my_repository
    """
    with rollout.locked(repository):
        others = set(versions.kept_versions(repository)) - {versions.active_version(repository)}
        if version not in others:
            raise ConfigError(
                f"Version {version} cannot be removed from {repository}; those that are kept and "
                f"not active are {', '.join(map(str, sorted(others))) or 'none'}."
            )
        versions.forget(repository, version)
    click.echo(f"Removed version {version}. A running server serves it until it is restarted.")


@contextmanager
def _connect(
    addresses: Sequence[str],
    admin_key_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token: str | None,
) -> Iterator[list[ModelControl]]:
    """Prepare a connection to every server, and close them afterwards."""
    credentials = read_credentials(tls_ca, tls_cert, tls_key)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                ModelControl(address, read_key(address, admin_key_file), token, credentials)
            )
            for address in addresses
        ]
