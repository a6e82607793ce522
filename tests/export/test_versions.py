"""The files that say which versions there are and which one is active."""

import os
import shutil
from pathlib import Path
from unittest.mock import Mock, call

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from exporter import rollout, versions
from ma_agiqa.errors import CheckpointError, ConfigError
from support.servers import SHIPPED


def chain(repository: Path, version: int) -> ModelConfig:
    """The ensemble `ma_agiqa`, ending in a version."""
    config = versions.read_config(repository, "ma_agiqa")
    for step in config.ensemble_scheduling.step:
        if step.model_name == "maniqa_moe":
            step.model_version = version
    return config


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
    rollout.prune(repository, (), keep=2)
    assert versions.kept_versions(repository) == policy(repository) == [1, 4]
    assert not (repository / "maniqa_moe" / "3").exists()


def test_what_is_there_already_is_not_written_again(repository):
    """Triton loads a model again whose files are newer: here, 16.4 GB for the paper's LMM."""
    path = repository / "mplug_owl2" / "config.pbtxt"
    path.write_text(path.read_text(encoding="utf-8") + "# A comment.\n")
    os.utime(path, (0, 0))
    versions.write_config(repository, versions.read_config(repository, "mplug_owl2"))
    assert path.stat().st_mtime == 0


def test_an_ensemble_that_names_no_version_is_reported(repository):
    versions.write_config(repository, chain(repository, -1))
    with pytest.raises(ConfigError, match=r"names no version of maniqa_moe\. Write the repository"):
        versions.active_version(repository)


def test_a_missing_or_damaged_configuration_is_reported(repository):
    (repository / "meter" / "config.pbtxt").write_text("name: unquoted")
    with pytest.raises(ConfigError, match=r"meter/config\.pbtxt is damaged: .* Remove the file"):
        versions.read_config(repository, "meter")
    with pytest.raises(ConfigError, match=r"has no other/config\.pbtxt .* complete one with"):
        versions.read_config(repository, "other")


def test_two_at_once_are_refused(repository):
    with (
        rollout.locked(repository),
        pytest.raises(ConfigError, match="Another export or rollout is running"),
        rollout.locked(repository),
    ):
        pass


def test_a_rollback_without_an_older_version_is_refused(repository):
    with pytest.raises(ConfigError, match="kept are 1, and 1 is active"):
        rollout.roll_back(repository, (), None)


@pytest.mark.parametrize("version", [0, 7])
def test_a_rollback_to_a_version_that_is_not_kept_is_refused(repository, version):
    add(repository, 2)
    versions.set_active(repository, 2)
    with pytest.raises(ConfigError, match=f"Version {version} is not kept in .*, and 2 is active"):
        rollout.roll_back(repository, (), version)


def test_a_rollback_to_a_damaged_version_is_refused(repository):
    add(repository, 2)
    (repository / "maniqa_moe" / "2" / "model.pt").write_bytes(b"half of a file")
    with pytest.raises(CheckpointError, match=r"they serve what they did.*cannot be read"):
        rollout.roll_back(repository, (), 2)
    assert versions.active_version(repository) == 1


def test_scores_are_measured_by_the_card_of_the_active_version(repository):
    shutil.copytree(repository / "maniqa_moe" / "1", repository / "maniqa_moe" / "2")
    new, server = chain(repository, 2), Mock(url="localhost:8001")
    new.parameters["mos_quantiles"].string_value = "[1, 5]"
    server.check.return_value = 0.0
    rollout.activate(repository, 2, new, [server], golden=None)
    assert versions.read_parameters(repository, "meter") == {"mos_quantiles": "[1, 5]"}
    assert call("meter") in server.load.call_args_list
    versions.set_active(repository, 1)
    quantiles = versions.card_of(repository, 1)["mos_quantiles"]
    assert versions.read_parameters(repository, "meter") == {"mos_quantiles": quantiles}


@pytest.mark.parametrize("passing_checks", [0, 1], ids=["before the switch", "after the switch"])
def test_an_activation_that_is_interrupted_is_undone(repository, passing_checks):
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    shutil.copytree(repository / "maniqa_moe" / "1", repository / "maniqa_moe" / "2")
    server = Mock(url="localhost:8001")
    server.check.side_effect = [0.0] * passing_checks + [KeyboardInterrupt]
    new = chain(repository, 2)
    del new.parameters["mos_quantiles"]
    with pytest.raises(KeyboardInterrupt):
        rollout.activate(repository, 2, new, [server], golden=None)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
    server.unload.assert_called_once_with("ma_agiqa_v2")
    assert server.load.call_args == call("maniqa_moe")  # last, by the file, without version 2
