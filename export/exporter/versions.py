"""The versions of the scorer that a model repository holds, and which of them traffic sees.

    ma_agiqa/        what clients ask by default: the chain that ends in the active version
    ma_agiqa_v1/     the same chain, ending in version 1; clients may ask for it by number
    ma_agiqa_v2/     and in version 2
    maniqa_moe/      1/ and 2/; its version policy names exactly the versions above

Every kept version is served, so that going back takes no load and two can be compared. The files
are enough: a server that starts again serves what it served before. Each version has an
ensemble of its own, because all versions of one Triton ensemble share one configuration, steps
included.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ma_agiqa.errors import ConfigError
from ma_agiqa.files import replace_folder, write_whole

ENSEMBLE = "ma_agiqa"
EMBEDDER = "mplug_owl2"
SCORER = "maniqa_moe"
METER = "meter"

_HEADER = (
    "# Written by export/to_triton.py; the reasons for its values are in "
    "export/exporter/config.py.\n"
)
_VERSION_FOLDER = re.compile(rf"{ENSEMBLE}_v(\d+)")


def ensemble_name(version: int) -> str:
    """Name of the ensemble that ends in a version."""
    return f"{ENSEMBLE}_v{version}"


def has_config(repository: Path, model: str) -> bool:
    """Whether a repository has a model."""
    return _config_file(repository, model).is_file()


def read_config(repository: Path, model: str) -> ModelConfig:
    """Read the configuration of a model.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    file = _config_file(repository, model)
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), ModelConfig())
    except OSError as error:
        raise ConfigError(
            f"The repository {repository} has no {model}/config.pbtxt ({error.strerror}). Write a "
            "complete one with `python export/to_triton.py`."
        ) from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} is damaged: {error}. Remove the file, and write the repository again with "
            "`python export/to_triton.py`."
        ) from error


def read_parameters(repository: Path, model: str) -> dict[str, str]:
    """Read the parameters in the configuration of a model.

    Raises:
        ConfigError: as for `read_config`.
    """
    parameters = read_config(repository, model).parameters
    return {name: value.string_value for name, value in parameters.items()}


def write_config(repository: Path, config: ModelConfig) -> None:
    """Write the configuration of a model, whole or not at all.

    A file that would not change is left alone: Triton would load the model of a newer file again.
    """
    if has_config(repository, config.name) and read_config(repository, config.name) == config:
        return
    write_whole(_config_file(repository, config.name), _text(config))


def _config_file(repository: Path, model: str) -> Path:
    return repository / model / "config.pbtxt"


def runs_on_gpu(repository: Path) -> bool:
    """Whether the scorers of a repository run on the GPU."""
    groups = read_config(repository, SCORER).instance_group
    return any(group.kind == group.KIND_GPU for group in groups)


def kept_versions(repository: Path) -> list[int]:
    """Numbers of the versions that have an ensemble, in ascending order."""
    folders = (file.parent.name for file in repository.glob("*/config.pbtxt"))
    names = (_VERSION_FOLDER.fullmatch(folder) for folder in folders)
    return sorted(int(name[1]) for name in names if name)


def active_version(repository: Path) -> int | None:
    """The version that `ma_agiqa` ends in; None before the first export.

    Raises:
        ConfigError: the ensemble names no version.
    """
    if not has_config(repository, ENSEMBLE):
        return None
    steps = read_config(repository, ENSEMBLE).ensemble_scheduling.step
    version = next((int(s.model_version) for s in steps if s.model_name == SCORER), -1)
    if version < 1:
        raise ConfigError(
            f"The ensemble in {repository} names no version of {SCORER}. Write the repository "
            "again with `python export/to_triton.py`, and restart its servers."
        )
    return version


def stored_versions(repository: Path) -> list[int]:
    """Numbers of the versions whose files are there, kept or not, in ascending order."""
    folders = (repository / SCORER).glob("*")
    return sorted(int(folder.name) for folder in folders if folder.name.isdigit())


def next_version(repository: Path) -> int:
    """One more than the highest number there is, kept or not."""
    return max([0, *stored_versions(repository)]) + 1


def card_of(repository: Path, version: int) -> dict[str, str]:
    """The card of a kept version, as strings."""
    return read_parameters(repository, ensemble_name(version))


def check_embedder(repository: Path, version: int) -> None:
    """Check that a version goes with the embedder of the repository.

    Raises:
        ConfigError: its scorer was exported for other weights or another dtype. What was written
            by a program that did not note them is accepted.
    """
    served, card = read_parameters(repository, EMBEDDER), card_of(repository, version)
    for name, bound in bound_embedder(served).items():
        if bound and card.get(name, bound) != bound:
            raise ConfigError(
                f"Version {version} in {repository} was exported for another mPLUG-Owl2 than is "
                f"served there: {name} is {card[name]}, not {bound}. Export its checkpoint again."
            )


def bound_embedder(served: Mapping[str, str]) -> dict[str, str]:
    """What the card of a scorer says about its embedder, from the parameters of `mplug_owl2`."""
    return {f"embedder_{name}": served.get(name, "") for name in ("dtype", "weights_sha256")}


def own_ensemble(active: ModelConfig, version: int) -> ModelConfig:
    """The ensemble of a version itself, from one for `ma_agiqa` that ends in that version."""
    return _renamed(active, ensemble_name(version))


def serve_versions(scorer: ModelConfig, versions: Iterable[int]) -> ModelConfig:
    """The scorer's configuration, serving exactly these versions.

    Not the newest ones, which is Triton's default: traffic sees a version when it has been
    checked, not when its files are there.
    """
    changed = _renamed(scorer, scorer.name)
    changed.ClearField("version_policy")
    changed.version_policy.specific.versions.extend(sorted(versions))
    return changed


def write_version(repository: Path, version: int, active: ModelConfig) -> None:
    """Keep a version: name it in the scorer's policy, then write its ensemble.

    Args:
        repository: holds the version's files already.
        version: its number.
        active: the ensemble `ma_agiqa` that ends in it.
    """
    scorer = read_config(repository, SCORER)
    write_config(repository, serve_versions(scorer, {*kept_versions(repository), version}))
    _write_ensemble(repository, own_ensemble(active, version))


def set_active(repository: Path, version: int) -> None:
    """Have `meter` measure the scores of a kept version, and `ma_agiqa` end in it."""
    meter, own = (read_config(repository, name) for name in (METER, ensemble_name(version)))
    quantiles = card_of(repository, version).get("mos_quantiles", "[]")
    meter.parameters["mos_quantiles"].string_value = quantiles
    write_config(repository, meter)
    _write_ensemble(repository, _renamed(own, ENSEMBLE))


def forget(repository: Path, version: int) -> None:
    """Remove a version: its ensemble first, then its place in the policy, then its files."""
    _remove(repository / ensemble_name(version))
    scorer = read_config(repository, SCORER)
    write_config(repository, serve_versions(scorer, kept_versions(repository)))
    _remove(repository / SCORER / str(version))


def _remove(folder: Path) -> None:
    """Remove a folder in one step, whose rest Triton does not see."""
    hidden = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _write_ensemble(repository: Path, config: ModelConfig) -> None:
    """Write an ensemble and its version 1, a folder without a model, in a way that git keeps."""
    folder = repository / config.name
    if (folder / "1").is_dir():
        write_config(repository, config)
        return
    with replace_folder(folder) as part:
        (part / "1").mkdir()
        (part / "1" / ".gitkeep").touch()
        (part / "config.pbtxt").write_text(_text(config), encoding="utf-8")


def _text(config: ModelConfig) -> str:
    return _HEADER + text_format.MessageToString(config, as_utf8=True)


def _renamed(config: ModelConfig, name: str) -> ModelConfig:
    """A copy with this name."""
    copy = ModelConfig()
    copy.CopyFrom(config)
    copy.name = name
    return copy
