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

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import torch

from exporter import rollout, versions
from exporter.formats import (
    ARITHMETICS,
)
from exporter.model_control import ModelControl, read_credentials, read_key
from exporter.new_version import (
    KEEP,
    REPOSITORY,
    Source,
    choose_owl,
    export,
    export_and_activate,
    read_checkpoint,
)
from ma_agiqa.errors import ConfigError, MAAGIQAError
from ma_agiqa.lmm.sources import (
    DTYPE_ALIASES,
    DTYPES,
)

DEMO_CHECKPOINT = Path(__file__).resolve().parents[1] / "training" / "checkpoints" / "demo"


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


_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


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
    "CPU. At the paper's size 16 bits take 16.1 GB, int8 8.2 and int4 4.7, at a loss that "
    "`python -m ma_agiqa benchmark dtypes` shows on your images.",
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
@click.option(
    "--forget",
    metavar="VERSION",
    type=int,
    help="Remove a kept version that is not active, such as one whose file is damaged.",
)
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
@click.option("--tls-ca", type=_PEM, help="Encrypt; whom to trust as the servers' issuer.")
@click.option("--tls-cert", type=_PEM, help="Own certificate, for mutual TLS.")
@click.option("--tls-key", type=_PEM, help="Its private key.")
@click.option(
    "--token", envvar="MA_AGIQA_TOKEN", show_envvar=True, help="Bearer token; better the variable."
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
    forget: int | None,
    list_versions: bool,
    keep: int,
    admin_key_file: Path | None,
    arithmetic: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token: str | None,
) -> None:
    if activate and rollback:
        raise click.UsageError("--activate and --rollback exclude one another.")
    try:
        with ExitStack() as stack:
            credentials = read_credentials(tls_ca, tls_cert, tls_key)
            servers = [
                stack.enter_context(
                    ModelControl(url, read_key(url, admin_key_file), token, credentials)
                )
                for url in activate or rollback
            ]
            if list_versions:
                sentence = _format_list(repository)
            elif forget is not None:
                sentence = _forget(repository, forget)
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


def _forget(repository: Path, version: int) -> str:
    with rollout.locked(repository):
        others = set(versions.kept_versions(repository)) - {versions.active_version(repository)}
        if version not in others:
            raise ConfigError(
                f"Version {version} cannot be removed from {repository}; those that are kept and "
                f"not active are {', '.join(map(str, sorted(others))) or 'none'}."
            )
        versions.forget(repository, version)
    return f"Removed version {version}. A running server serves it until it is started again."


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
