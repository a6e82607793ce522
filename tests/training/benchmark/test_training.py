"""The benchmark of training: real steps on real features; what it says adds up."""

import re

import pytest
from click.testing import CliRunner

from ma_agiqa.benchmark.training import _TimedTrainer, measure_training
from ma_agiqa.commands.benchmark import main
from ma_agiqa.train.config import load_config
from support.rated_images import write_config, write_images

SMALL = {"optimization.batch_size": "4", "optimization.schedule": "constant", "split.kind": "paper"}


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_images(folder, 15)
    return write_config(folder)


def test_the_steps_asked_for_are_trained_and_nothing_is_kept(config_path, monkeypatch):
    seen = []

    def training_step(self, model, inputs, *more):
        seen.append(len(inputs["labels"]))
        return super(_TimedTrainer, self).training_step(model, inputs, *more)

    monkeypatch.setattr(_TimedTrainer, "training_step", training_step, raising=False)
    config = load_config(config_path, SMALL)
    speed = measure_training(config, steps=3)
    assert seen == [4] * (5 + 3)  # the warm-up before; more than the train part's one epoch
    assert (speed.processes, speed.batch_size, speed.steps) == (1, 4, 3)
    assert 0 < speed.wait_ms < speed.step_ms
    assert speed.images_per_s == pytest.approx(4000 / speed.step_ms)
    assert speed.wait_share == pytest.approx(speed.wait_ms / speed.step_ms)
    assert speed.loader_images_per_s > 0
    left = {path.name for path in config_path.parent.iterdir()}
    assert left == {"images", "data.csv", "config.yaml", "features"}


def test_the_command_states_every_number(config_path):
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    done = CliRunner().invoke(main, ["train", "--config", str(config_path), "--steps=1", *settings])
    assert done.exit_code == 0, done.output
    assert re.search(r"machine  \S.*, 1 process with \d+ threads, torch \d", done.stdout)
    assert re.search(r"step +[\d.]+ images/s: [\d.]+ ms for 4 images, over 1 steps", done.stdout)
    assert re.search(r"loader +[\d,]+ images/s alone", done.stdout)
    assert re.search(r"wait +[\d.]+% of a step waits for data \([\d.]+ ms\)", done.stdout)


def test_a_part_too_small_for_a_batch_is_said(config_path):
    arguments = ["train", "--config", str(config_path), "--set=optimization.batch_size=99"]
    done = CliRunner().invoke(main, [*arguments, "--set=split.kind=paper"])
    assert done.exit_code == 1
    assert "batch_size is 99" in done.stderr
