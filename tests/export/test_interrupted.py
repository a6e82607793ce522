"""An export or rollout that is killed, or meets a full disk, in any of its steps."""

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from exporter import rollout, versions
from exporter.new_version import NewVersion
from ma_agiqa.errors import CheckpointError
from support.interruptions import fill_disk_after, kill_after, states_of
from support.servers import serving
from support.stand_in.repository import put_in_stand_ins

KILLS = int(os.environ.get("EXPORT_KILLS", "5"))

Action = Callable[[Path], object]


@pytest.fixture
def actions(new: Callable[..., NewVersion], copied_scorer: None, monkeypatch) -> dict[str, Action]:
    """What changes a repository, by name. None computes: they run in forked processes."""
    monkeypatch.setattr(rollout, "make_golden", lambda *_: None)
    monkeypatch.setattr(rollout, "require_served", lambda *_: None)
    server = Mock(url="localhost:8001")

    def activate(repository: Path, fails: bool = False) -> object:
        server.check.side_effect = [0.0, CheckpointError("other scores")] if fails else [0.0] * 9
        return new(repository).activate([server])

    return {
        "export": lambda repository: new(repository).publish(),
        "export of another dtype": lambda repository: new(repository, "bfloat16").publish(),
        "activate": activate,
        "activate, refused": lambda repository: activate(repository, fails=True),
        "forget": lambda repository: versions.forget(repository, 1),
        "prune": lambda repository: rollout.prune(repository, (), keep=1),
        "roll back": lambda repository: versions.set_active(repository, 1),
    }


NAMES = {
    "export": 3,
    "export of another dtype": 3,
    "activate": 3,
    "activate, refused": 2,  # after the switch, which is taken back
    "forget": 2,
    "prune": 2,
    "roll back": 1,
}
"""The version that is active afterwards; 2 was before."""


def assert_starts(repository: Path) -> int:
    """Check that every model of a repository can be loaded; return the active version."""
    configs = {
        file.parent.name: versions.read_config(repository, file.parent.name)
        for file in repository.glob("[!.]*/config.pbtxt")
    }
    policy = configs["maniqa_moe"].version_policy.specific.versions
    for number in policy:
        assert (repository / "maniqa_moe" / str(number) / "model.pt").stat().st_size > 0
    for name, config in configs.items():
        assert config.name == name
        assert [v for v in (repository / name).iterdir() if v.name.isdigit()]
        if config.backend == "python":
            assert "class TritonPythonModel" in (repository / name / "1" / "model.py").read_text()
        for step in config.ensemble_scheduling.step:
            assert step.model_name in configs
            assert step.model_version in ([*policy] if step.model_name == "maniqa_moe" else [-1])
    for number in versions.kept_versions(repository):
        versions.check_embedder(repository, number)
    active = versions.active_version(repository)
    assert active is not None
    return active


def visible(repository: Path) -> set[str]:
    names = (str(path.relative_to(repository)) for path in repository.rglob("*"))
    return {name for name in names if "/." not in f"/{name}" or name.endswith(".gitkeep")}


@pytest.mark.parametrize("name", NAMES)
def test_every_state_starts_and_the_next_export_repairs_it(two_versions, actions, tmp_path, name):
    """Both exports and the rollouts, snapshots of the repository before each change of a file."""
    states = states_of(two_versions, partial(actions[name], two_versions), tmp_path / "states")
    found = [assert_starts(state) for state in states]
    assert (found[0], found[-1]) == (2, NAMES[name])
    assert set(found) <= {2, 3, NAMES[name]}
    assert len(states) == 2 if name == "export of another dtype" else len(states) > 1
    for state in states:
        number = actions["export"](state)
        assert assert_starts(state) == number == versions.stored_versions(state)[-1]
        assert versions.stored_versions(state) == versions.kept_versions(state)
        assert not list(state.rglob(".*.part")) + list(state.rglob(".*.old"))


def test_a_first_export_leaves_nothing_or_everything(actions, tmp_path):
    target = tmp_path / "models"
    states = states_of(target, lambda: actions["export"](target), tmp_path / "states")
    assert [len(list(state.iterdir())) for state in states[:-1]] == [0]
    assert assert_starts(states[-1]) == 1


def test_damage_that_older_programs_left_is_repaired(two_versions, actions):
    (two_versions / "ma_agiqa_v2" / "config.pbtxt").unlink()
    adapter = two_versions / "preprocess" / "1" / "model.py"
    adapter.write_text(adapter.read_text()[:100])
    (two_versions / "maniqa_moe" / ".export-killed").mkdir()
    assert actions["export"](two_versions) == 3
    assert assert_starts(two_versions) == 3
    assert not (two_versions / "ma_agiqa_v2").exists()
    assert not (two_versions / "maniqa_moe" / ".export-killed").exists()


@pytest.mark.parametrize("name", ["export", "export of another dtype", "activate"])
def test_a_disk_that_is_full_at_any_moment(two_versions, actions, tmp_path, name):
    before, calls, failed = visible(two_versions), 0, True
    while failed and calls < 400:
        copy = shutil.copytree(two_versions, tmp_path / "copy")
        failed = fill_disk_after(calls, partial(actions[name], copy))
        active = assert_starts(copy)
        assert active == 3 or failed
        if failed and name == "export of another dtype":
            assert active == 2
            assert visible(copy) == before
            assert not list(tmp_path.glob(".*"))
        shutil.rmtree(copy)
        calls += 3
    assert calls > 20


@pytest.mark.slow
def test_random_kills_each_followed_by_a_start(two_versions, actions, tmp_path):
    """`EXPORT_KILLS=200` for more. The networks of the server that starts are stand-ins."""
    rng, killed = random.Random(KILLS), 0
    for number in range(KILLS):
        name = rng.choice(list(NAMES))
        repository = shutil.copytree(two_versions, tmp_path / f"killed-{number}")
        killed += kill_after(rng.uniform(0.0, 0.08), partial(actions[name], repository))
        active = assert_starts(repository)
        put_in_stand_ins(repository)
        with serving(repository) as server:
            assert server.http.get("/v2/models/ma_agiqa/config", 5.0)["parameters"]["version"] == {
                "string_value": str(active)
            }
        shutil.rmtree(repository)
    print(f"{killed} of {KILLS} were killed before their end; every repository was served")
