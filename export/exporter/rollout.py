"""Changes the version that running servers serve, completely or not at all; no request fails.

    activate   load N+1 next to N -> golden requests to N+1 alone -> write the files -> switch
    roll back  golden requests to the kept version -> write the files -> switch

Until N+1 has passed, it is known to the servers' memory only: a server that dies meanwhile comes
back as it was. Measured on 2.51 under load, with no request failing (docs/rollout.md): loading a
new version leaves the others alone, and loading the ensemble switches in 0.03 s, while requests in
flight end in the version they began with.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tritonclient.grpc.model_config_pb2 import ModelConfig

from exporter import versions
from exporter.golden import Embedder, Golden
from exporter.model_control import ModelControl, ServedEmbedder
from ma_agiqa.errors import CheckpointError, ConfigError, MAAGIQAError
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, build_embedder

_CPU_TOLERANCE = 1e-3
_GPU_TOLERANCE = 1e-2
"""TF32 and other orders of the sums; a MOS lies in 0-5."""

logger = logging.getLogger(__name__)


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Lock the repository against other exports and rollouts.

    Raises:
        ConfigError: one is running.
    """
    repository.mkdir(parents=True, exist_ok=True)
    folder = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(folder), os.stat(repository)):  # it has been replaced
            raise BlockingIOError
        yield
    except BlockingIOError as error:
        raise ConfigError(
            f"Another export or rollout is running on {repository}. Wait until it has ended."
        ) from error
    finally:
        os.close(folder)


def require_served(repository: Path, servers: Sequence[ModelControl]) -> None:
    """Refuse servers that do not serve what the repository holds by now, such as after an export.

    Raises:
        CheckpointError: a server runs another embedder, or serves another version.
    """
    for name in (versions.EMBEDDER, versions.ENSEMBLE):
        expected = versions.read_parameters(repository, name)
        for server in servers:
            if server.parameters(name) != expected:
                raise CheckpointError(
                    f"The server at {server.url} serves another {name} than {repository} has by "
                    "now. Restart it; it then serves the active version."
                )


def make_golden(
    repository: Path, scorer: torch.nn.Module, servers: Sequence[ModelControl]
) -> Golden:
    """Score the golden images in process, with the embedder that the repository names.

    The demo's embedder is built here. Others (the paper's takes 16.4 GB) are asked of the server's
    `mplug_owl2`, which an activation never changes; the scorer runs in process in either case.
    """
    served = versions.read_parameters(repository, versions.EMBEDDER)
    if (served["embedder"], served["dtype"]) == (DEMO_EMBEDDER, "float32"):
        embedder: Embedder = build_embedder(DEMO_EMBEDDER)
    else:
        view = versions.read_config(repository, versions.EMBEDDER).input[0]
        embedder = ServedEmbedder(servers[0], image_size=view.dims[0])
    tolerance = _GPU_TOLERANCE if versions.runs_on_gpu(repository) else _CPU_TOLERANCE
    return Golden.compute(embedder, scorer, tolerance)


def activate(
    repository: Path,
    version: int,
    ensemble: ModelConfig,
    servers: Sequence[ModelControl],
    golden: Golden,
) -> None:
    """Have servers of one repository serve a new version, and keep the old one next to it.

    Args:
        repository: holds maniqa_moe/<version>, which the servers do not know yet.
        version: its number.
        ensemble: configuration of `ma_agiqa` that ends in it.
        servers: are all checked before the first one switches.
        golden: the scores that the version must give.

    Raises:
        CheckpointError: a server cannot load it, or scores differently. Every server then serves
            what it did, and the version's files are removed.
    """
    before = versions.active_version(repository)
    try:
        for server in servers:
            _load_candidate(repository, version, ensemble, server)
            _check(server, version, golden)
        versions.write_version(repository, version, ensemble)
        for server in servers:
            server.load(versions.SCORER)  # nothing new: it now follows the file
            server.load(versions.ensemble_name(version))
        _switch(repository, version, servers, golden)
    except BaseException as error:
        _undo(repository, version, servers)
        if not isinstance(error, MAAGIQAError | OSError):
            raise
        raise CheckpointError(
            f"Version {version} was not activated; version {before} is still served. {error}"
        ) from error


def _load_candidate(
    repository: Path, version: int, ensemble: ModelConfig, server: ModelControl
) -> None:
    """Load a version and its ensemble into a server's memory alone."""
    scorer = versions.read_config(repository, versions.SCORER)
    wanted = [*versions.kept_versions(repository), version]
    server.load(versions.SCORER, versions.serve_versions(scorer, wanted))
    own = versions.own_ensemble(ensemble, version)
    server.load(own.name, own)


def _check(server: ModelControl, version: int, golden: Golden) -> None:
    difference = server.check(versions.ensemble_name(version), golden)
    logger.info(
        "Version %d at %s gives the scores of this process to %.1e", version, server.url, difference
    )


def _switch(
    repository: Path, version: int, servers: Sequence[ModelControl], golden: Golden
) -> None:
    """Have traffic see a version that is loaded; go back if a server does not follow."""
    before = versions.active_version(repository)
    versions.set_active(repository, version)
    try:
        for server in servers:
            server.load(versions.METER)
            server.load(versions.ENSEMBLE)
            server.check(versions.ENSEMBLE, golden)
    except BaseException:
        if before is not None:
            versions.set_active(repository, before)
        for server in servers:
            for name in (versions.METER, versions.ENSEMBLE):
                _try(server.load, name)
        raise


def _undo(repository: Path, version: int, servers: Sequence[ModelControl]) -> None:
    """Remove every trace of a version that was refused."""
    name = versions.ensemble_name(version)
    for server in servers:
        _try(server.unload, name)
    versions.forget(repository, version)
    for server in servers:
        problem = _try(server.load, versions.SCORER)
        if problem:
            logger.warning(
                "Version %d, which gets no traffic, could not be unloaded: %s", version, problem
            )


def _try(action: Callable[[str], None], model: str) -> str | None:
    """Load or unload a model; return what went wrong, if something did."""
    try:
        action(model)
    except MAAGIQAError as error:
        return str(error)
    return None


def roll_back(repository: Path, servers: Sequence[ModelControl], to: int | None) -> int:
    """Have servers serve another kept version.

    Args:
        repository: what the servers serve.
        servers: are all checked before the first one switches.
        to: number of the version; None for the one before the active one.

    Returns:
        The version's number.

    Raises:
        ConfigError: there is no such version.
        CheckpointError: its file is damaged, or a server scores differently with it. Every server
            then serves what it did.
    """
    active, kept = versions.active_version(repository), versions.kept_versions(repository)
    before = max((one for one in kept if active and one < active), default=None)
    version = before if to is None else to
    if version is None or version not in kept:
        raise ConfigError(
            f"Version {f'before {active}' if version is None else version} is not kept in "
            f"{repository}; kept are {', '.join(map(str, kept)) or 'none'}, and {active} is "
            "active. Choose one with --to."
        )
    try:
        require_served(repository, servers)
        versions.check_embedder(repository, version)
        scorer = _read_scorer(repository / versions.SCORER / str(version) / "model.pt")
        golden = make_golden(repository, scorer, servers)
        for server in servers:
            server.load(versions.ensemble_name(version))
            _check(server, version, golden)
        _switch(repository, version, servers, golden)
    except MAAGIQAError as error:
        raise CheckpointError(
            f"The servers were not rolled back; they serve what they did. {error}"
        ) from error
    return version


def _read_scorer(file: Path) -> torch.nn.Module:
    try:
        return torch.jit.load(str(file), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as TorchScript. Choose another version with --to, or export "
            "the checkpoint again."
        ) from error


def prune(repository: Path, servers: Sequence[ModelControl], keep: int) -> None:
    """Remove the oldest versions from servers and files until `keep` are left; never the active.

    No request in flight fails: an ensemble is unloaded when its last request is answered, and
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
        logger.info("Removed version %d; %d are kept", version, keep)
