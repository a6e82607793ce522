"""Changes the version that running servers serve, without a request failing, and never by half.

    activate   load N+1 beside N -> golden requests to N+1 alone -> write the files -> switch
    roll back  golden requests to the kept version -> write the files -> switch

Until N+1 has passed, it is known to the servers' memory only: a server that dies meanwhile comes
back as it was. Measured on 2.51 under load, with no request failing (docs/rollout.md): a load of a
new version leaves the others alone, and a load of the ensemble switches in 0.03 s, while requests
that are under way end in the version they began with.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from exporter import versions
from exporter.golden import Golden, Network, embed_in_process
from exporter.model_control import ModelControl
from ma_agiqa.errors import CheckpointError, ConfigError, MAAGIQAError
from ma_agiqa.lmm.sources import DEMO_EMBEDDER

__all__ = ["activate", "locked", "make_golden", "prune", "roll_back"]

_CPU_TOLERANCE = 1e-3
_GPU_TOLERANCE = 1e-2
"""TF32 and other orders of the sums; a MOS lies in 0-5."""

Say = Callable[[str], None]


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Hold the repository against another export or rollout.

    Raises:
        ConfigError: one is under way.
    """
    repository.mkdir(parents=True, exist_ok=True)
    folder = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(
            f"Another export or rollout is at work on {repository}: wait for its end."
        ) from error
    finally:
        os.close(folder)


def make_golden(repository: Path, network: Network, server: ModelControl) -> Golden:
    """Score the golden images in process, by the LMM that the repository names."""
    owl = versions.read_config(repository, "mplug_owl2")
    in_process = owl.parameters["weights"].string_value == DEMO_EMBEDDER
    return Golden.compute(
        network,
        embed_in_process if in_process else server.embed,
        view_size=owl.input[0].dims[0],
        tolerance=_GPU_TOLERANCE if versions.run_on_gpu(repository) else _CPU_TOLERANCE,
    )


def activate(
    repository: Path,
    version: int,
    ensemble: str,
    servers: Sequence[ModelControl],
    golden: Golden,
    say: Say,
) -> None:
    """Have servers of one repository serve a new version, and keep the old one beside it.

    Args:
        repository: holds maniqa_moe/<version>, of which the servers do not know yet.
        version: its number.
        ensemble: configuration of `ma_agiqa` ending in it.
        servers: are all checked before the first one switches.
        golden: what the version has to score.
        say: is told about progress.

    Raises:
        CheckpointError: a server cannot load it, or scores differently; all serve what they did.
    """
    before = versions.active_version(repository)
    name = versions.ensemble_name(version)
    try:
        for server in servers:
            _load_candidate(repository, version, ensemble, server)
            difference = server.check(name, golden)
            say(f"{server.url} scores as in process to {difference:.1e}, with version {version}")
        versions.write_version(repository, version, ensemble)
        for server in servers:
            server.load(versions.SCORER)  # nothing new: it now follows the file
            server.load(name)
        _switch(repository, version, servers, golden)
    except (MAAGIQAError, OSError) as error:
        _undo(repository, version, servers, say)
        raise CheckpointError(
            f"Version {version} was not activated; version {before} goes on serving. {error}"
        ) from error


def _load_candidate(repository: Path, version: int, ensemble: str, server: ModelControl) -> None:
    """Load a version and its ensemble into a server's memory alone."""
    scorer = (repository / versions.SCORER / "config.pbtxt").read_text(encoding="utf-8")
    wanted = [*versions.kept_versions(repository), version]
    server.load(versions.SCORER, versions.with_policy(scorer, wanted))
    text = versions.ensemble_text(ensemble, version)
    server.load(versions.ensemble_name(version), text)


def _switch(
    repository: Path, version: int, servers: Sequence[ModelControl], golden: Golden
) -> None:
    """Have traffic see a version that is loaded; go back if a server does not follow."""
    before = versions.active_version(repository)
    versions.set_active(repository, version)
    try:
        for server in servers:
            server.load(versions.ENSEMBLE)
            server.check(versions.ENSEMBLE, golden)
    except MAAGIQAError:
        if before is not None:
            versions.set_active(repository, before)
        for server in servers:
            _try(lambda server=server: server.load(versions.ENSEMBLE))
        raise


def _undo(repository: Path, version: int, servers: Sequence[ModelControl], say: Say) -> None:
    """Remove every trace of a version that was refused."""
    name = versions.ensemble_name(version)
    for server in servers:
        _try(lambda server=server: server.unload(name))
    if version in versions.kept_versions(repository):
        versions.forget(repository, version)
    for server in servers:
        problem = _try(lambda server=server: server.load(versions.SCORER))
        if problem:
            say(f"Could not unload version {version}, which gets no traffic: {problem}")


def _try(action: Callable[[], None]) -> str | None:
    try:
        action()
    except MAAGIQAError as error:
        return str(error)
    return None


def roll_back(repository: Path, servers: Sequence[ModelControl], to: int | None, say: Say) -> int:
    """Have servers serve another kept version, by default the one before the active one.

    Returns:
        Its number.

    Raises:
        ConfigError: there is no such version.
        CheckpointError: its file is damaged, or a server scores differently with it; all serve
            what they did.
    """
    active, kept = versions.active_version(repository), versions.kept_versions(repository)
    version = to or max((one for one in kept if active and one < active), default=None)
    if version is None or version not in kept:
        raise ConfigError(
            f"Version {version or 'before ' + str(active)} is not kept in {repository}; kept are "
            f"{', '.join(map(str, kept)) or 'none'}, and {active} is active. Choose one with --to."
        )
    try:
        network = _read_network(repository / versions.SCORER / str(version) / "model.pt")
        golden = make_golden(repository, network, servers[0])
        for server in servers:
            server.load(versions.ensemble_name(version))
            difference = server.check(versions.ensemble_name(version), golden)
            say(f"{server.url} scores as in process to {difference:.1e}, with version {version}")
        _switch(repository, version, servers, golden)
    except MAAGIQAError as error:
        raise CheckpointError(
            f"The servers were not rolled back; version {active} goes on serving. {error}"
        ) from error
    return version


def _read_network(file: Path) -> Network:
    try:
        network: Network = torch.jit.load(str(file), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as TorchScript. Choose another version with --to, or export "
            "the checkpoint again."
        ) from error
    return network


def prune(repository: Path, servers: Sequence[ModelControl], keep: int, say: Say) -> None:
    """Remove the oldest versions from servers and files until `keep` are left; never the active.

    Nothing that is under way fails: an ensemble is unloaded when its last request is answered, and
    holds its version until then.
    """
    active = versions.active_version(repository)
    kept = versions.kept_versions(repository)
    others = [version for version in kept if version != active]
    for version in others[: max(0, len(kept) - keep)]:
        for server in servers:
            server.unload(versions.ensemble_name(version))
        versions.forget(repository, version)
        for server in servers:
            server.load(versions.SCORER)
        say(f"Removed version {version}; {keep} are kept.")
