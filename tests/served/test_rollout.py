"""New versions under load, on a real server: no request may fail, and none be half changed."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tritonclient.grpc.model_config_pb2 import ModelConfig

from embedded.server import EmbeddedTriton, ServerFailedError
from exporter import commands, rollout, versions
from exporter.commands import DEMO_CHECKPOINT
from exporter.golden import Golden, golden_images
from exporter.model_control import ModelControl, ServedEmbedder, read_key
from ma_agiqa.checkpoints import load_calibration, load_scorer, save_checkpoint
from ma_agiqa.errors import CheckpointError
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.networks.calibration import CalibratedScorer
from ma_agiqa_client import Scorer
from support.constant_load import ConstantLoad

ROOT = Path(__file__).resolve().parents[2]
RUN = 60  # images


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    repository = tmp_path_factory.mktemp("rollout") / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    return repository


@pytest.fixture(scope="module")
def own_server(repository):
    """A server whose repository the tests may change."""
    log_file = repository.parent / "server.log"
    with EmbeddedTriton(repository, free_ports=True, log_file=log_file) as running:
        yield running


@pytest.fixture(scope="module")
def key_file(own_server) -> Path:
    return own_server.log_file.with_suffix(".key")


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory) -> Path:
    """The demo's scorer, every weight one percent larger."""
    model, card = load_scorer(DEMO_CHECKPOINT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    card = dataclasses.replace(card, mos_quantiles=tuple(1.1 * one for one in card.mos_quantiles))
    return save_checkpoint(tmp_path_factory.mktemp("runs") / "other", model, card)


@pytest.fixture
def control(own_server, key_file):
    with ModelControl(own_server.grpc_url, read_key(own_server.grpc_url, key_file)) as control:
        yield control


def to_triton(*words: object) -> Result:
    """Run a command of export/to_triton.py."""
    return CliRunner().invoke(commands.main, [str(word) for word in words])


def served_scorer(checkpoint: Path) -> CalibratedScorer:
    """A scorer with the demo's calibration, of which the copied card speaks."""
    return CalibratedScorer(load_scorer(checkpoint)[0], load_calibration(DEMO_CHECKPOINT)[0])


def start_run(url: str, folder: Path) -> "subprocess.Popen[str]":
    """A run of client/score.py over RUN copies of an image, some of which are scored."""
    images, journal = folder / "images", folder / "done.jsonl"
    images.mkdir()
    for number in range(RUN):
        (images / f"{number}.png").write_bytes(golden_images()[0])
    options = ("--url", url, "--resume", journal, "--concurrency", "2", "--retry-for", "2")
    line = [sys.executable, ROOT / "client" / "score.py", images, *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen([str(word) for word in line], stdout=pipe, stderr=pipe, text=True)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def score_in_process(checkpoint: Path) -> float:
    golden = Golden.compute(build_embedder(), load_scorer(checkpoint)[0], tolerance=1e-3)
    return float(golden.expected[0][0, 0])


def loaded_scorers(server: EmbeddedTriton) -> int:
    return server.log_file.read_text().count("successfully loaded 'maniqa_moe'")


@pytest.mark.faults
@pytest.mark.slow
def test_activate_and_roll_back_under_load(
    repository, own_server, key_file, control, other_checkpoint
):
    old, new = score_in_process(DEMO_CHECKPOINT), score_in_process(other_checkpoint)
    assert abs(old - new) > 2e-3
    url = own_server.grpc_url
    options = ("--repository", repository, "--admin-key-file", key_file)
    quantiles = control.parameters("meter")["mos_quantiles"]
    with ConstantLoad(url, threads=3) as load, Scorer(url, version=1) as first:
        load.wait_for(20)
        done = to_triton("activate", url, "--checkpoint", other_checkpoint, *options)
        assert done.exit_code == 0, done.stderr
        assert f"Version 2 of ma-agiqa-demo is active at {url}." in done.stdout
        assert f"Version 2 at {url} gives the scores of this process to" in done.stderr
        assert control.parameters("meter")["mos_quantiles"] not in ("[]", quantiles)
        load.wait_for(20)
        switched = len(load.scores)
        with Scorer(url) as active, Scorer(url, version=2) as second:
            image = golden_images()[0]
            assert active.model().version == second.model().version == 2
            assert first.model().version == 1
            assert active.score(image).mos == pytest.approx(new, abs=1e-3)
            assert second.score(image).mos == pytest.approx(new, abs=1e-3)
            assert first.score(image).mos == pytest.approx(old, abs=1e-3)
        listed = to_triton("list", "--repository", repository).stdout.splitlines()
        assert [line.split()[:2] for line in listed] == [["2", "active"], ["1", "kept"]]
        done = to_triton("rollback", url, *options)
        assert done.stdout == f"Version 1 is active at {url}.\n", done.stderr
        assert control.parameters("meter")["mos_quantiles"] == quantiles
        load.wait_for(20)
    assert load.errors == []
    seen = [score for _, score in load.scores]
    np.testing.assert_allclose(seen[:10], old, atol=1e-3)
    np.testing.assert_allclose(seen[switched - 10 : switched], new, atol=1e-3)
    np.testing.assert_allclose(seen[-10:], old, atol=1e-3)
    assert all(min(abs(score - old), abs(score - new)) < 1e-3 for score in seen)
    text = own_server.log_file.read_text()
    for model in ("mplug_owl2", "preprocess"):  # 16.4 GB would not fit twice
        assert text.count(f"successfully loaded '{model}'") == 1


def state(repository: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in repository.rglob("*") if p.is_file()}


def stage(repository: Path, weights: bytes | None) -> tuple[int, ModelConfig]:
    """Write the files of the next version; its number and its ensemble."""
    version = versions.next_version(repository)
    folder = repository / "maniqa_moe" / str(version)
    folder.mkdir()
    if weights is not None:
        (folder / "model.pt").write_bytes(weights)
    ensemble = versions.read_config(repository, "ma_agiqa")
    ensemble.parameters["version"].string_value = str(version)
    for step in ensemble.ensemble_scheduling.step:
        if step.model_name == "maniqa_moe":
            step.model_version = version
    return version, ensemble


@pytest.mark.slow
def test_the_oldest_of_too_many_goes(repository, own_server, control, other_checkpoint, tmp_path):
    network = served_scorer(other_checkpoint)
    torch.jit.script(network).save(tmp_path / "model.pt")
    golden = rollout.make_golden(repository, network, [control])
    with ConstantLoad(own_server.grpc_url, threads=2) as load:
        load.wait_for(4)
        while len(versions.kept_versions(repository)) < 3:
            version, ensemble = stage(repository, (tmp_path / "model.pt").read_bytes())
            rollout.activate(repository, version, ensemble, [control], golden)
        rollout.prune(repository, [control], keep=2)
        load.wait_for(8)
    assert load.errors == []
    kept = versions.kept_versions(repository)
    assert kept == [version - 1, version]
    assert versions.active_version(repository) == version
    assert not (repository / "maniqa_moe" / "1").exists()
    served = {one: Scorer(own_server.grpc_url, version=one) for one in (1, *kept)}
    assert {one: scorer.health() for one, scorer in served.items()} == {
        1: False,
        version - 1: True,
        version: True,
    }
    for scorer in served.values():
        scorer.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "status"), [(2, 0), (1, 3)], ids=["the version is kept", "the version is dropped"]
)
def test_a_run_of_the_command_line_has_one_version(
    repository, own_server, control, other_checkpoint, tmp_path, keep, status
):
    network = served_scorer(other_checkpoint)
    torch.jit.script(network).save(tmp_path / "model.pt")
    golden = rollout.make_golden(repository, network, [control])
    with Scorer(own_server.grpc_url) as scorer:
        before = scorer.model().version
        wanted = scorer.score(golden_images()[0]).mos
    process = start_run(own_server.grpc_url, tmp_path)
    process.send_signal(signal.SIGSTOP)  # the new version comes in the middle for certain
    version, ensemble = stage(repository, (tmp_path / "model.pt").read_bytes())
    rollout.activate(repository, version, ensemble, [control], golden)
    rollout.prune(repository, [control], keep=keep)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    rows = [json.loads(line)["mos"] for line in (tmp_path / "done.jsonl").read_text().splitlines()]
    assert len(rows) == RUN if keep == 2 else 4 <= len(rows) < RUN
    np.testing.assert_allclose(rows, wanted, atol=1e-4)
    assert (f"version {before}, with which the run began" in said) == (keep == 1)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("other weights", "gives another SCORE than the same weights in process"),
        pytest.param("corrupt file", "not TorchScript", marks=pytest.mark.slow),
        pytest.param("no file", "no file model.pt", marks=pytest.mark.slow),
        pytest.param(
            "not a number",
            "the largest difference over 4 golden images is nan",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failed_check_leaves_the_old_version_serving(
    repository, own_server, control, tmp_path, fault, reason
):
    network = served_scorer(DEMO_CHECKPOINT)
    golden = rollout.make_golden(repository, network, [control])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.02 if fault == "other weights" else float("nan"))
    if fault in ("other weights", "not a number"):
        torch.jit.script(network).save(tmp_path / "model.pt")
        weights = (tmp_path / "model.pt").read_bytes()
    else:
        weights = b"not a model" if fault == "corrupt file" else None
    before, active = state(repository), versions.active_version(repository)
    version, ensemble = stage(repository, weights)
    with ConstantLoad(own_server.grpc_url, threads=2) as load:
        load.wait_for(4)
        with pytest.raises(CheckpointError) as caught:
            rollout.activate(repository, version, ensemble, [control], golden)
        load.wait_for(8)
    assert f"Version {version} was not activated; version {active} is still" in str(caught.value)
    assert reason in str(caught.value)
    assert load.errors == []
    assert len(load.seen(3)) == 1
    assert state(repository) == before
    with Scorer(own_server.grpc_url, version=version, timeout_s=2) as scorer:
        assert not scorer.health()


@pytest.mark.slow
def test_a_file_that_is_damaged_later_leaves_what_is_loaded(repository, own_server, control):
    """Triton notices that the file has changed, cannot load it, and keeps what it has."""
    file = repository / "maniqa_moe" / str(versions.active_version(repository)) / "model.pt"
    weights = file.read_bytes()
    with ConstantLoad(own_server.grpc_url, threads=2) as load:
        load.wait_for(4)
        file.write_bytes(weights[: len(weights) // 2])
        with pytest.raises(CheckpointError, match="did not load maniqa_moe"):
            control.load("maniqa_moe")
        file.unlink()
        with pytest.raises(CheckpointError, match="did not load maniqa_moe"):
            control.load("maniqa_moe")
        load.wait_for(8)
    file.write_bytes(weights)
    assert load.errors == []
    assert len(load.seen(3)) == 1


def test_a_dead_server_is_reported_and_nothing_changes(repository):
    before = state(repository)
    kept = versions.kept_versions(repository)[0]
    with (
        ModelControl("127.0.0.1:9", "") as dead,
        pytest.raises(CheckpointError, match=r"not rolled back; .* did not show the"),
    ):
        rollout.roll_back(repository, [dead], kept)
    assert state(repository) == before


def test_the_server_embeds_as_this_process_does(own_server, control):
    """Golden scores of embedders that are too large to load a second time are made this way."""
    network = served_scorer(DEMO_CHECKPOINT)
    served = Golden.compute(ServedEmbedder(control, image_size=112), network, tolerance=1e-3)
    expected = Golden.compute(build_embedder(), network, tolerance=1e-3)
    np.testing.assert_allclose(served.expected[0], expected.expected[0], atol=1e-4)


@pytest.mark.faults
def test_a_damaged_version_is_named_at_the_start_and_can_be_removed(tmp_path):
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    version, ensemble = stage(repository, b"not a model")
    versions.write_version(repository, version, ensemble)
    server = EmbeddedTriton(repository, free_ports=True, log_file=tmp_path / "log")
    with pytest.raises(ServerFailedError, match=r"maniqa_moe failed to load: .*not TorchScript"):
        server.start()
    assert to_triton("forget", version, "--repository", repository).exit_code == 0
    with server, Scorer(server.grpc_url) as scorer:
        assert scorer.model().version == 1
