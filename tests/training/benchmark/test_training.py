"""The benchmark of training: real steps on real features; what it says adds up."""

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
    row = measure_training(config, steps=3)
    assert seen == [4] * (5 + 3)  # the warm-up before; more than the train part's one epoch
    assert (row["processes"], row["images in a step"], row["steps"]) == (1, 4, 3)
    assert 0 < row["wait for data, ms/step"] < row["ms/step"]
    assert row["images/s"] == pytest.approx(4000 / row["ms/step"])
    assert row["loader alone, images/s"] > 0
    left = {path.name for path in config_path.parent.iterdir()}
    assert left == {"images", "data.csv", "config.yaml", "features"}


def test_a_part_too_small_for_a_batch_is_said(config_path):
    arguments = ["train", "--config", str(config_path), "--set=optimization.batch_size=99"]
    done = CliRunner().invoke(main, [*arguments, "--set=split.kind=paper"])
    assert done.exit_code == 1
    assert "batch_size is 99" in done.stderr
