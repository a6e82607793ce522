"""The files that say which versions there are and which one is active."""

import os
import shutil
from pathlib import Path

import pytest

import to_triton
from exporter import rollout, versions
from ma_agiqa.errors import CheckpointError, ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "model_repository"


@pytest.fixture
def repository(tmp_path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "models"))


def chain(repository: Path, version: int) -> str:
    text = (repository / "ma_agiqa" / "config.pbtxt").read_text(encoding="utf-8")
    return text.replace("model_version: 1", f"model_version: {version}")


def add(repository: Path, version: int) -> None:
    (repository / "maniqa_moe" / str(version)).mkdir()
    versions.write_version(repository, version, chain(repository, version))


def policy(repository: Path) -> list[int]:
    config = versions.read_config(repository, "maniqa_moe")
    return list(config.version_policy.specific.versions)


def test_the_shipped_repository_keeps_and_serves_version_1():
    assert versions.kept_versions(SHIPPED) == policy(SHIPPED) == [1]
    assert versions.active_version(SHIPPED) == 1
    assert versions.card_of(SHIPPED, 1)["version"] == "1"
    active, kept = (versions.read_config(SHIPPED, name) for name in ("ma_agiqa", "ma_agiqa_v1"))
    kept.name = active.name
    assert kept == active


def test_a_version_is_kept_before_it_is_active(repository):
    add(repository, 2)
    assert versions.kept_versions(repository) == policy(repository) == [1, 2]
    assert versions.active_version(repository) == 1
    versions.set_active(repository, 2)
    assert versions.active_version(repository) == 2
    assert versions.next_version(repository) == 3


def test_a_forgotten_version_leaves_nothing(repository):
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    add(repository, 2)
    versions.forget(repository, 2)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_pruning_never_removes_the_active_version(repository):
    for version in (2, 3, 4):
        add(repository, version)
    rollout.prune(repository, (), keep=2, say=lambda _: None)
    assert versions.kept_versions(repository) == policy(repository) == [1, 4]
    assert not (repository / "maniqa_moe" / "3").exists()


def test_what_is_there_already_is_not_written_again(repository):
    """Triton loads a model anew whose files are newer: here, 16.4 GB for the paper's LMM."""
    path = repository / "mplug_owl2" / "config.pbtxt"
    os.utime(path, (0, 0))
    versions.write_config(repository, "mplug_owl2", path.read_text(encoding="utf-8"))
    assert path.stat().st_mtime == 0


def test_an_ensemble_that_names_no_version_is_told(repository):
    path = repository / "ma_agiqa" / "config.pbtxt"
    path.write_text(path.read_text().replace("model_version: 1", "model_version: -1"))
    with pytest.raises(ConfigError, match=r"names no version of maniqa_moe\. Write it again"):
        versions.active_version(repository)


def test_two_at_once_are_refused(repository):
    with (
        rollout.locked(repository),
        pytest.raises(ConfigError, match="Another export or rollout is at work"),
        rollout.locked(repository),
    ):
        pass


def test_a_rollback_without_an_older_version_is_refused(repository):
    with pytest.raises(ConfigError, match="kept are 1, and 1 is active"):
        rollout.roll_back(repository, (), None, print)


def test_a_rollback_to_a_damaged_version_is_refused(repository):
    add(repository, 2)
    (repository / "maniqa_moe" / "2" / "model.pt").write_bytes(b"half of a file")
    with pytest.raises(CheckpointError, match=r"version 1 goes on serving.*cannot be read"):
        rollout.roll_back(repository, (), 2, print)
    assert versions.active_version(repository) == 1


def test_a_damaged_version_can_be_removed_but_not_the_active_one(repository):
    add(repository, 2)
    with pytest.raises(ConfigError, match=r"Version 1 cannot be removed .* not active are 2"):
        to_triton._forget(repository, 1)
    assert to_triton._forget(repository, 2).startswith("Removed version 2.")
    assert versions.kept_versions(repository) == policy(repository) == [1]
