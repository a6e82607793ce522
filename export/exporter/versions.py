"""The versions of the scorer that a model repository holds, and which of them traffic sees.

    ma_agiqa/        what clients ask by default: the chain that ends in the active version
    ma_agiqa_v1/     the same chain, ending in version 1; clients may ask for it by number
    ma_agiqa_v2/     and in version 2
    maniqa_moe/      1/ and 2/; its version policy names exactly the versions above

Every kept version is served, so that going back takes no load and two can be compared. The files
say everything: a server that starts again serves what it served before. An ensemble of its own for
each version, because all versions of one Triton ensemble share one configuration, steps included.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ma_agiqa.errors import ConfigError
from ma_agiqa.files import write_whole

__all__ = [
    "ENSEMBLE",
    "SCORER",
    "active_version",
    "card_of",
    "ensemble_name",
    "ensemble_text",
    "forget",
    "kept_versions",
    "next_version",
    "read_config",
    "run_on_gpu",
    "set_active",
    "with_policy",
    "write_config",
    "write_version",
]

ENSEMBLE = "ma_agiqa"
SCORER = "maniqa_moe"

_NAME_LINE = re.compile(r'^name: "[^"]*"', re.MULTILINE)
_POLICY_LINE = re.compile(r"^version_policy \{.*\}\n", re.MULTILINE)
_VERSION_FOLDER = re.compile(rf"{ENSEMBLE}_v(\d+)")


def ensemble_name(version: int) -> str:
    """Name of the ensemble that ends in a version."""
    return f"{ENSEMBLE}_v{version}"


def read_config(repository: Path, model: str) -> model_config_pb2.ModelConfig:
    """Read a model's configuration.

    Raises:
        ConfigError: there is none.
    """
    try:
        text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The repository {repository} has no {model}/config.pbtxt ({error.strerror}). Write a "
            "whole one with `python export/to_triton.py`, without --activate."
        ) from error
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def run_on_gpu(repository: Path) -> bool:
    """Whether the scorers of a repository run on the GPU."""
    groups = read_config(repository, SCORER).instance_group
    return any(group.kind == group.KIND_GPU for group in groups)


def kept_versions(repository: Path) -> list[int]:
    """Numbers of the versions that have an ensemble, rising."""
    names = (_VERSION_FOLDER.fullmatch(path.parent.name) for path in _configs(repository))
    return sorted(int(name[1]) for name in names if name)


def _configs(repository: Path) -> Iterable[Path]:
    return repository.glob("*/config.pbtxt")


def active_version(repository: Path) -> int | None:
    """The version that `ma_agiqa` ends in; None before the first export.

    Raises:
        ConfigError: the ensemble ends in whatever version is newest, as older exports wrote it.
    """
    if not (repository / ENSEMBLE / "config.pbtxt").is_file():
        return None
    steps = read_config(repository, ENSEMBLE).ensemble_scheduling.step
    version = next((int(s.model_version) for s in steps if s.model_name == SCORER), -1)
    if version < 1:
        raise ConfigError(
            f"The ensemble in {repository} names no version of {SCORER}. Write it again with "
            "`python export/to_triton.py`, without --activate, and start the server anew."
        )
    return version


def next_version(repository: Path) -> int:
    """One more than the highest number there is, kept or not."""
    folders = (repository / SCORER).glob("*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0) + 1


def card_of(repository: Path, version: int) -> dict[str, str]:
    """The card of a kept version, as strings."""
    parameters = read_config(repository, ensemble_name(version)).parameters
    return {name: value.string_value for name, value in parameters.items()}


def ensemble_text(active_text: str, version: int) -> str:
    """Configuration of a version's own ensemble, from one for `ma_agiqa` that ends in it."""
    return _NAME_LINE.sub(f'name: "{ensemble_name(version)}"', active_text, count=1)


def with_policy(scorer_text: str, versions: Iterable[int]) -> str:
    """The scorer's configuration, serving exactly these versions."""
    numbers = ", ".join(map(str, sorted(versions)))
    line = f"version_policy {{ specific {{ versions: [ {numbers} ] }} }}\n"
    changed, count = _POLICY_LINE.subn(line, scorer_text, count=1)
    return changed if count else scorer_text + line


def write_config(repository: Path, model: str, text: str) -> None:
    """Write a configuration, unless it is there: a newer file makes Triton load a model anew."""
    path = repository / model / "config.pbtxt"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)


def write_version(repository: Path, version: int, text: str) -> None:
    """Keep a version: name it in the scorer's policy, then write its ensemble."""
    scorer = (repository / SCORER / "config.pbtxt").read_text(encoding="utf-8")
    versions = {*kept_versions(repository), version}
    write_config(repository, SCORER, with_policy(scorer, versions))
    _make_ensemble(repository, ensemble_name(version))
    write_config(repository, ensemble_name(version), ensemble_text(text, version))


def set_active(repository: Path, version: int) -> None:
    """Have `ma_agiqa` end in a kept version."""
    path = repository / ensemble_name(version) / "config.pbtxt"
    text = _NAME_LINE.sub(f'name: "{ENSEMBLE}"', path.read_text(encoding="utf-8"), count=1)
    _make_ensemble(repository, ENSEMBLE)
    write_config(repository, ENSEMBLE, text)


def _make_ensemble(repository: Path, name: str) -> None:
    """Make version 1 of an ensemble, a folder without a model, in a way that git keeps."""
    marker = repository / name / "1" / ".gitkeep"
    if not marker.is_file():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def forget(repository: Path, version: int) -> None:
    """Remove a version: its ensemble first, then its place in the policy, then its files."""
    shutil.rmtree(repository / ensemble_name(version))
    scorer = (repository / SCORER / "config.pbtxt").read_text(encoding="utf-8")
    write_config(repository, SCORER, with_policy(scorer, kept_versions(repository)))
    shutil.rmtree(repository / SCORER / str(version), ignore_errors=True)
