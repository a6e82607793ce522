"""A scorer is served with the embedder of its training and no other: export, rollout and load."""

import dataclasses
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result

from embedded.errors import ServerFailedError
from exporter import rollout, versions
from exporter.commands import main
from exporter.new_version import NewVersion, Source
from ma_agiqa.checkpoints import save_checkpoint
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.lmm.mplug_owl2.weight_files import write_tensors
from ma_agiqa.lmm.sources import demo_mplug_owl2
from support.servers import serving


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def write_owl(folder: Path, factor: float = 1.0) -> Path:
    """An mPLUG-Owl2 of the demo's sizes, with the demo's weights times a factor."""
    owl = demo_mplug_owl2()
    state = {name: tensor * factor for name, tensor in owl.state_dict().items()}
    write_tensors(folder, owl.config.to_dict(), state.items())
    return folder


@pytest.fixture
def owls(tmp_path) -> dict[str, Path]:
    folders = {"owl": write_owl(tmp_path / "owl"), "other": write_owl(tmp_path / "other", 1.5)}
    folders["moved"] = Path(shutil.copytree(folders["owl"], tmp_path / "moved"))
    return folders


def trained_with(source: Source, embedder: str, dtype: str = "float16") -> Source:
    identity = dataclasses.asdict(EmbedderIdentity.of(embedder, dtype))
    card = dataclasses.replace(source.card, embedder=identity, preset="paper")
    return dataclasses.replace(source, card=card)


@pytest.fixture
def trained(source, owls) -> Source:
    """A scorer that was trained on the embeddings of "owl" in float16."""
    return trained_with(source, str(owls["owl"]))


def export(folder: Path, *words: object) -> Result:
    options = ("--repository", folder / "models", "--checkpoint", folder / "checkpoint")
    return CliRunner().invoke(main, [str(word) for word in (*options, *words)])


@pytest.mark.parametrize(
    ("words", "served"),
    [
        ((), ("owl", "float16")),
        (("--embedder", "moved"), ("moved", "float16")),
        (("--dtype", "int8"), ("owl", "int8")),
        (("--embedder", "moved", "--dtype", "bf16"), ("moved", "bfloat16")),
    ],
)
def test_the_embedder_of_the_training_is_exported(
    trained, copied_scorer, tmp_path, monkeypatch, words, served
):
    save_checkpoint(tmp_path / "checkpoint", trained.scorer, trained.card)
    monkeypatch.chdir(tmp_path)
    done = export(tmp_path, *words)
    assert done.exit_code == 0, done.output
    found = versions.read_parameters(tmp_path / "models", "mplug_owl2")
    assert (found["embedder"], found["dtype"]) == (str(tmp_path / served[0]), served[1])
    assert found["weights_sha256"] == trained.card.embedder["weights_sha256"]
    card = versions.card_of(tmp_path / "models", 1)
    assert card["embedder_weights_sha256"] == found["weights_sha256"]
    assert card["embedder_dtype"] == served[1]


def test_another_one_is_refused_whatever_its_widths_and_label(trained, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoint", trained.scorer, trained.card)
    monkeypatch.chdir(tmp_path)
    for embedder in ("other", "demo"):
        done = export(tmp_path, "--embedder", embedder, "--dtype", "float16")
        assert done.exit_code == 1
        assert "was trained on the embeddings of another embedder than" in done.stderr
        assert "the hash of its weights is" in done.stderr
    write_owl(tmp_path / "owl", 1.5)  # replaced in its folder
    assert "the hash of its weights is" in export(tmp_path).stderr
    assert not (tmp_path / "models").exists()


def test_other_prompts_and_another_dtype_are_refused(source, tmp_path):
    card = source.card
    demo = EmbedderIdentity.of("demo", "bfloat16")
    with pytest.raises(ConfigError, match="its dtype is bfloat16, not float32"):
        NewVersion(source, tmp_path / "models", demo, gpu=False)
    prompts = {**card.embedder["prompts"], "semantic": [1, -200, 2]}
    other = dataclasses.replace(card, embedder={**card.embedder, "prompts": prompts})
    with pytest.raises(ConfigError, match="prompts"):
        NewVersion(
            dataclasses.replace(source, card=other),
            tmp_path / "models",
            demo,
            gpu=False,
            any_dtype=True,
        )


def test_an_activation_is_for_the_embedder_that_is_served(source, repository, owls):
    assert NewVersion.for_running(source, repository).embedder.source == "demo"
    with pytest.raises(ConfigError, match=r"of another embedder than .*the hash of its weights is"):
        NewVersion.for_running(trained_with(source, str(owls["other"])), repository)
    other_dtype = trained_with(source, "demo", "bfloat16")
    with pytest.raises(ConfigError, match="its dtype is float32, not bfloat16"):
        NewVersion.for_running(other_dtype, repository)
    assert NewVersion.for_running(other_dtype, repository, dtype="float32").any_dtype
    with pytest.raises(ConfigError, match=r"have mPLUG-Owl2 in float32, not int8\. To change it"):
        NewVersion.for_running(source, repository, dtype="int8")


@pytest.mark.parametrize(("model", "fact"), [("mplug_owl2", "embedder"), ("ma_agiqa", "version")])
def test_a_server_that_was_not_restarted_after_an_export_is_found(two_versions, new, model, fact):
    """It is neither compared with a version that gets no traffic, nor switched to that one."""
    server = Mock(url="localhost:8001")
    changed = {model: {fact: "before"}}
    server.parameters.side_effect = lambda name: (
        versions.read_parameters(two_versions, name) | changed.get(name, {})
    )
    for action in (
        lambda: rollout.roll_back(two_versions, [server], 1),
        lambda: new(two_versions).activate([server]),
    ):
        with pytest.raises(CheckpointError, match=f"The server at localhost:8001 .* {model} than"):
            action()
    assert not server.load.called
    assert versions.active_version(two_versions) == 2


def set_parameter(repository: Path, model: str, name: str, value: str) -> None:
    config = versions.read_config(repository, model)
    config.parameters[name].string_value = value
    versions.write_config(repository, config)


def test_a_rollback_to_a_version_of_another_embedder_is_refused(two_versions):
    set_parameter(two_versions, "ma_agiqa_v1", "embedder_weights_sha256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"Version 1 in .* was exported for another mPLUG"):
        rollout.roll_back(two_versions, [], 1)


@pytest.mark.slow
def test_weights_that_were_replaced_do_not_load(repository, owls):
    hash_of_owl = EmbedderIdentity.of(str(owls["owl"]), "float32").weights_sha256
    set_parameter(repository, "mplug_owl2", "weights_sha256", hash_of_owl)
    set_parameter(repository, "mplug_owl2", "embedder", str(owls["other"]))
    with (
        pytest.raises(
            ServerFailedError, match=r"mplug_owl2 failed to load: The weights of .*other"
        ),
        serving(repository),
    ):
        pass


def test_a_scorer_of_another_embedder_is_not_served(stand_in_repository, tmp_path):
    repository = Path(shutil.copytree(stand_in_repository, tmp_path / "models"))
    set_parameter(repository, "ma_agiqa_v1", "embedder_dtype", "int8")
    sentence = r"ma_agiqa_v1 was exported for another embedder .* its dtype is float32, not int8"
    with pytest.raises(ServerFailedError, match=sentence), serving(repository):
        pass
