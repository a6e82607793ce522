"""Training, run for real on the small run's images; and the shipped demo checkpoint."""

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import skimage
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.commands.datasets import main as check
from ma_agiqa.commands.train import main
from ma_agiqa.data import make_split, read_images
from ma_agiqa.data.features import ScorerDataset
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.evaluate.ordering import count_pairs, score_versions
from ma_agiqa.metrics.agreement import evaluate
from ma_agiqa.networks.maniqa import NO_WEIGHTS, PRETRAINED
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from ma_agiqa.pipeline import ImageScorer
from ma_agiqa.train import training
from ma_agiqa.train.config import load_config
from ma_agiqa.train.mos_scale import MosScale
from ma_agiqa.train.predict import predict
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.start import freeze
from ma_agiqa.train.trainer import EpochSampler, ScorerTrainer, ranking_loss
from ma_agiqa.train.training import part_datasets, run_features

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "training" / "configs"
DEMO_CONFIG = CONFIGS / "demo.yaml"
DEMO_CHECKPOINT = ROOT / "training" / "checkpoints" / "demo"
EPOCHS = 3


@pytest.fixture
def config(small_run):
    return small_run.config_path


@pytest.fixture
def trained(small_run):
    return small_run.checkpoint


def run(config, *options):
    """Run the command in this process."""
    return CliRunner().invoke(main, ["--config", str(config), *map(str, options)])


def command(config, *options, launcher=("-m",)):
    """The same command for a process of its own."""
    arguments = ["ma_agiqa", "train", "--config", str(config), *map(str, options)]
    return [sys.executable, *launcher, *arguments]


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def history(folder):
    return [
        {name: float(value) for name, value in row.items()}
        for row in read_rows(folder / "history.csv")
    ]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_checkpoint_is_complete_and_says_what_it_is(trained):
    model, card = load_scorer(trained)
    rows = read_rows(trained / "split.csv")
    parts = [row["part"] for row in rows]
    assert card.preset == "demo"
    assert "demo" in card.note.lower()
    assert len(card.mos_quantiles) == 101
    assert card.metrics["split"] == "test"
    assert card.training["optimization"]["epochs"] == EPOCHS
    assert not model.training
    assert len(rows) == 80
    # Every image of a part is measured; none is dropped with the last batch.
    assert card.metrics["count"] == parts.count("test")
    assert card.metrics["validation"]["count"] == parts.count("validation")
    history = read_rows(trained / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    best = max(history, key=lambda r: float(r["validation_srcc"]) + float(r["validation_plcc"]))
    assert card.metrics["best_epoch"] == int(best["epoch"])
    assert card.metrics["validation"]["srcc"] == pytest.approx(float(best["validation_srcc"]))


def test_the_metrics_are_those_of_the_written_weights(small_run):
    settings = small_run.config()
    model, card = load_scorer(small_run.checkpoint)
    test = make_split(read_images(settings.data), settings.split).test
    features = run_features(settings, test)
    assert features.made == 0
    scores, *_ = predict(model, ScorerDataset(features, range(len(test)), [i.mos for i in test]))
    assert evaluate([i.mos for i in test], scores).srcc == pytest.approx(card.metrics["srcc"])


def test_the_curves_are_there_for_tensorboard(trained):
    events = EventAccumulator(str(trained.with_name("run.work") / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("eval/srcc")) == EPOCHS
    assert len(events.Scalars("train/loss")) == EPOCHS


def kill_when(process, is_time, timeout_s=200):
    """Send SIGKILL as soon as the condition holds; fails if the process ends before."""
    end = time.monotonic() + timeout_s
    while not is_time():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


SLOW_TO_MARK = """
import runpy, sys, time
from ma_agiqa.train.run_folder import RunFolder
mark_whole = RunFolder.mark_whole
RunFolder.mark_whole = lambda folder, step: (time.sleep(2), mark_whole(folder, step))
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(config, tmp_path):
    """Every run is a process of its own: what else a process did can change the last bits."""
    output, whole_run = tmp_path / "killed", tmp_path / "whole"
    folder = RunFolder(output)

    def whole():
        return len(list(folder.path.glob("checkpoint-*/whole")))

    def half_written():
        return any(not (p / "whole").exists() for p in folder.path.glob("checkpoint-*"))

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = command(config, "--output", output)
    process = subprocess.Popen(start, start_new_session=True, **silent)
    kill_when(process, lambda: whole() == 1)  # in the second epoch
    assert folder.newest_whole() is not None
    slow = command(config, "--output", output, launcher=("-c", SLOW_TO_MARK))
    process = subprocess.Popen(slow, start_new_session=True, **silent)
    kill_when(process, lambda: whole() and half_written())  # while a checkpoint is being written
    assert not output.exists()
    for each in (output, whole_run):
        subprocess.run(command(config, "--output", each), check=True, **silent)
    assert_same_bits(weights(whole_run), weights(output))
    # The fit behind PLCC and RMSE rounds by where its arrays lie in memory.
    for row, expected in zip(*map(history, (output, whole_run)), strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
    assert not list(folder.path.glob("checkpoint-*"))


def test_an_unfinished_run_with_other_settings_is_not_taken_up(config, trained, tmp_path):
    output = tmp_path / "other"
    unfinished = RunFolder(output)
    unfinished.start({"seed": 3}, restart=False)
    (unfinished.path / "checkpoint-7").mkdir()
    unfinished.mark_whole(7)
    refused = run(config, "--output", output)
    assert refused.exit_code == 1
    assert "unfinished run with other settings" in refused.output
    assert "seed" in refused.output
    done = run(config, "--output", output, "--restart")
    assert done.exit_code == 0, done.output
    assert_same_bits(weights(trained), weights(output))


def test_a_scorer_is_trained_further_from_a_checkpoint(config, trained, tmp_path):
    """With a learning rate of nothing it stays what it was, on another scale of ratings."""
    still = ("optimization.learning_rate=1e-30", "optimization.epochs=1", "scorer={}")
    options = [word for setting in still for word in ("--set", setting)]
    start = ("--set", f"init_from={trained}")
    done = run(config, "--output", tmp_path / "further", *start, *options)
    assert done.exit_code == 0, done.output
    assert "test images were in the train or validation part" not in done.output
    assert_same_bits(weights(trained), weights(tmp_path / "further"))
    other = run(config, "--output", tmp_path / "wide", *start, *options,
                "--set", "data.mos_range=[0, 10]")  # fmt: skip
    assert other.exit_code == 0, other.output
    images = torch.zeros(1, 224, 224, 3, dtype=torch.uint8), torch.zeros(1, 128)
    small, wide = (load_scorer(tmp_path / name)[0] for name in ("further", "wide"))
    with torch.no_grad():
        scores = [scorer(*images, images[1]).score for scorer in (small, wide)]
    torch.testing.assert_close(scores[1], 2 * scores[0])
    refused = run(config, "--output", tmp_path / "no", *start, "--set", "scorer.swin_mlp_dim=8")
    assert refused.exit_code == 1
    assert "there scorer.swin_mlp_dim is 16" in refused.output
    gone = run(config, "--output", tmp_path / "no", "--set", "init_from=gone")
    assert gone.exit_code == 1
    assert "gone" in gone.output
    assert "Traceback" not in gone.output


@pytest.mark.parametrize("part", ["validation", "test"])
def test_parts_that_cannot_be_measured_are_refused_before_the_training(config, tmp_path, part):
    shares = {"validation": 0.2, "test": 0.2, part: 0.05}  # 4 of 80 images
    options = [w for name, share in shares.items() for w in ("--set", f"split.{name}={share}")]
    for command_ in (main, check):
        arguments = ["--config", str(config), *options]
        if command_ is main:
            arguments += ["--output", str(tmp_path / "run")]
        else:
            arguments = ["check", *arguments]
        done = CliRunner().invoke(command_, arguments)
        assert done.exit_code == 1
        assert f"The {part} part has 4 images; its metrics need 5" in done.output
        assert f"split.{part} (0.05)" in done.output
    assert not (tmp_path / "run").exists()


def test_a_training_is_saved_before_it_is_measured(config, tmp_path, monkeypatch):
    def fails(*_):
        raise DataError("the measurement failed")

    monkeypatch.setattr(training, "_measure", fails)
    done = run(config, "--output", tmp_path / "run", "--set", "optimization.epochs=1")
    assert done.exit_code == 1
    assert "the measurement failed" in done.output
    _, card = load_scorer(tmp_path / "run")
    assert card.metrics == {}


@pytest.mark.slow
def test_a_run_counts_the_epochs_that_were_no_better_before_a_kill(config, tmp_path):
    """At this rate the weights stand still, so no epoch is better than the first."""
    settings = ("patience=2", "learning_rate=1e-12", "epochs=9")
    options = [word for setting in settings for word in ("--set", f"optimization.{setting}")]
    stopped = tmp_path / "stopped"
    folder = RunFolder(stopped)

    def after_the_second_epoch():
        newest = folder.newest_whole()
        state = newest and json.loads((newest / "trainer_state.json").read_text())
        return bool(state) and state["epoch"] >= 2

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = command(config, "--output", stopped, *options)
    kill_when(subprocess.Popen(start, start_new_session=True, **silent), after_the_second_epoch)
    assert run(config, "--output", stopped, *options).exit_code == 0
    assert len(read_rows(stopped / "history.csv")) == 3


def test_an_output_that_holds_other_things_is_refused_before_the_training(config, tmp_path):
    (tmp_path / "notes.txt").touch()
    done = run(config, "--output", tmp_path)
    assert done.exit_code == 1
    assert f"would replace {tmp_path}, which also holds notes.txt: name another" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_checkpoint_that_was_half_removed_is_not_continued_from(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for step in (2, 10):
        (folder.path / f"checkpoint-{step}").mkdir(parents=True)
        (folder.path / f"checkpoint-{step}" / "optimizer.pt").touch()
        folder.mark_whole(step)
    assert folder.newest_whole().name == "checkpoint-10"
    (folder.path / "checkpoint-10" / "optimizer.pt").unlink()
    assert folder.newest_whole().name == "checkpoint-2"


def test_a_run_that_never_began_blocks_no_other(config, tmp_path):
    output = tmp_path / "run"
    RunFolder(output).start({"seed": 3}, restart=False)
    done = run(config, "--output", output, "--set", "optimization.epochs=1")
    assert done.exit_code == 0, done.output


WITHOUT_DROPOUT = ("--set", "scorer.dropout=0", "--set", "scorer.drop_path=0")


@pytest.fixture(scope="module")
def without_dropout(small_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("plain") / "run"
    done = run(small_run.config_path, "--output", output, *WITHOUT_DROPOUT)
    assert done.exit_code == 0, done.output
    return output


@pytest.mark.slow
def test_two_processes_train_as_one(config, without_dropout, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    start = command(config, "--output", tmp_path / "two", *WITHOUT_DROPOUT, launcher=launcher)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(start, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "8 images a step on 2 x cpu" in done.stderr
    for name, value in weights(without_dropout).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, atol=1e-4, rtol=1e-3)
    one, two = (load_scorer(f)[1].metrics for f in (without_dropout, tmp_path / "two"))
    assert two["count"] == one["count"]
    for name in ("srcc", "plcc", "krcc", "rmse"):
        assert two[name] == pytest.approx(one[name], abs=1e-3), name


def test_accumulated_parts_make_the_same_step(config, without_dropout, tmp_path):
    accumulated = ("--set", "optimization.accumulation=4")
    done = run(config, "--output", tmp_path / "parts", *WITHOUT_DROPOUT, *accumulated)
    assert done.exit_code == 0, done.output
    for name, value in weights(without_dropout).items():
        torch.testing.assert_close(weights(tmp_path / "parts")[name], value, atol=1e-4, rtol=1e-3)


def test_a_ranking_loss_compares_images_of_a_group_only():
    score = torch.tensor([1.0, 2.0, 3.0, 0.0])
    mos = torch.tensor([2.0, 1.0, 1.02, 5.0])
    group = torch.tensor([0, 0, 0, 1])
    loss = ranking_loss(score, mos, group)  # 1 ought to be above 2 and 3, whose MOS are about equal
    expected = (math.log1p(math.exp(4 * 1)) + math.log1p(math.exp(4 * 2))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(ranking_loss(score, mos, torch.arange(4))) == 0
    assert float(ranking_loss(mos * 10, mos, group)) < 1e-6


def test_a_batch_of_a_ranking_holds_several_images_of_a_group():
    groups = [index // 16 for index in range(160)]
    sampler = EpochSampler(160, 32, seed=1, groups=groups)
    first = [index for _, index in sampler]
    assert sorted(first) == list(range(160))
    assert first == [index for _, index in sampler]
    runs = [{groups[index] for index in first[i : i + 16]} for i in range(0, 160, 16)]
    assert all(len(run) == 1 for run in runs)
    assert [*runs] != sorted(runs, key=min)
    sampler.set_epoch(1)
    assert [index for _, index in sampler] != first


def test_a_ranking_loss_is_part_of_the_training(config, trained, tmp_path):
    """With pairs to compare, another loss is minimized; the images of a step are others, too."""
    data = config.parent / "data"
    rows = read_rows(data / "data.csv")
    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "picture"])
        writer.writeheader()
        writer.writerows({**row, "picture": index % 4} for index, row in enumerate(rows))
    columns = "{image: name, mos: mos_quality, compared: picture}"
    table = (f"data.csv={tmp_path / 'data.csv'}", f"data.image_folder={data / 'images'}")
    ranking = ("optimization.rank_weight=1000", "optimization.epochs=1", f"data.columns={columns}")
    options = [part for value in (*table, *ranking) for part in ("--set", value)]
    done = run(config, "--output", tmp_path / "ranked", *options)
    assert done.exit_code == 0, done.output
    losses = [
        float(read_rows(folder / "history.csv")[0]["loss"])
        for folder in (tmp_path / "ranked", trained)
    ]
    assert losses[0] > 100 * losses[1]
    parts = ("optimization.batch_size=8", "optimization.accumulation=8")
    options += [part for value in parts for part in ("--set", value)]
    done = run(config, "--output", tmp_path / "parts", *options)
    assert "batch_size 8 in 1 processes with accumulation 8 leaves one. Raise" in done.output
    done = run(config, "--output", tmp_path / "no", "--set", "optimization.rank_weight=-1")
    assert "must not be negative" in done.output


def test_a_ranking_that_compares_nothing_is_refused(config, trained, tmp_path, caplog):
    done = run(config, "--output", tmp_path / "no", "--set", "optimization.rank_weight=1")
    assert "no two images of the train part are compared: name a column" in done.output
    compared = ("--set", "data.columns={image: name, mos: mos_quality, compared: prompt}")
    run(config, "--output", tmp_path / "unused", *compared, "--set", "optimization.epochs=1")
    assert "data.columns.compared has no effect: optimization.rank_weight is 0" in caplog.text


def test_bfloat16_learns_about_the_same(config, trained, tmp_path):
    done = run(config, "--output", tmp_path / "bf16", "--set", "optimization.precision=bfloat16")
    assert done.exit_code == 0, done.output
    losses = [
        [float(row["loss"]) for row in read_rows(folder / "history.csv")]
        for folder in (trained, tmp_path / "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "bf16").values())


def test_patience_ends_a_training_that_gets_no_better(config, trained, tmp_path):
    settings = ("optimization.patience=1", "optimization.learning_rate=1e-12")
    options = [word for setting in settings for word in ("--set", setting)]
    done = run(config, "--output", tmp_path / "early", *options)
    assert done.exit_code == 0, done.output
    assert len(read_rows(tmp_path / "early" / "history.csv")) == 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", lambda step: 1.0),
        ("cosine", lambda step: (1 + math.cos(math.pi * step / 120)) / 2),
        # Released code: down to 0 after 50 steps, back after 100, whatever the length of the run.
        ("released_cosine", lambda step: (1 + math.cos(math.pi * step / 50)) / 2),
    ],
)
def test_learning_rates_of_the_schedules(small_run, tmp_path, schedule, expected):
    config = small_run.config(optimization__schedule=schedule)
    images = read_images(config.data)
    split = make_split(images, config.split)
    data = part_datasets(config, images, split, run_features(config, images))
    trainer = ScorerTrainer(
        MAAGIQA(config.scorer_config()),
        MosScale(*config.data.mos_range),
        RunFolder(tmp_path / "run"),
        config.optimization,
        config.seed,
        data["train"],
        data["validation"],
    )
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(120, optimizer)
    rates = []
    for _ in range(120):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1e-3 * expected(step) for step in range(120)], abs=1e-9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "optimizer=sgd"], "unknown settings ['optimizer']"),
        (["--set", "seed=one"], "seed is 'one'; expected an integer"),
        (["--set", "scorer.semantic_dim=64"], "set it to 128"),
        (["--set", "optimization.batch_size=500"], "fewer than one step takes"),
        (["--set", "optimization.accumulation=3"], "accumulation 3 equal parts"),
        (["--set", "optimization.schedule=linear"], "optimization.schedule is 'linear'; choose"),
        (["--set", "optimization.frozen=[maniqa.nothing]"], "'maniqa.nothing'"),
        (["--set", "split.kind=k-fold", "--set", "split.fold=7"], "fold is 7 of 5"),
        (["--backbone-weights", "gone.safetensors"], "there is no file gone.safetensors"),
    ],
)
def test_wrong_settings_end_in_a_sentence(config, trained, tmp_path, options, sentence):
    done = run(config, "--output", tmp_path / "run", *options)
    assert done.exit_code == 1
    assert sentence in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_loses_nothing(config, trained, tmp_path):
    """A limit on the size of files stands for the disk: the checkpoint's weights do not fit."""

    limit = (trained / "model.safetensors").stat().st_size // 2

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = tmp_path / "full"
    start = command(config, "--output", output)
    full = subprocess.run(
        start, capture_output=True, text=True, timeout=200, check=False, preexec_fn=small_files
    )
    assert full.returncode == 1
    assert " is full" in full.stderr
    assert "Traceback" not in full.stderr
    assert not output.exists()
    assert RunFolder(output).newest_whole() is None
    done = run(config, "--output", output)
    assert done.exit_code == 0, done.output
    assert_same_bits(weights(trained), weights(output))


def test_frozen_parameters_are_those_named():
    model = MAAGIQA(load_config(DEMO_CONFIG).scorer_config())
    freeze(model, ["maniqa.backbone."])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("maniqa.backbone.")
    with pytest.raises(ConfigError, match=r"'maniqa\.nothing'"):
        freeze(model, ["maniqa.nothing"])


TINY = "vit_tiny_patch16_224"
TINY_SCORER = MAAGIQAConfig(
    backbone=TINY,
    feature_blocks=(2, 3),
    num_transposed_attention=1,
    swin_depths=(1,),
    swin_window=7,
    swin_mlp_dim=16,
    semantic_dim=8,
)


def test_backbone_weights_come_from_a_file(tmp_path):
    published = timm.create_model(TINY).state_dict()
    save_file(published, tmp_path / "model.safetensors")
    scorer = MAAGIQA(TINY_SCORER, str(tmp_path / "model.safetensors"))
    found = scorer.maniqa.backbone.vit.state_dict()
    assert "blocks.3.attn.qkv.weight" in found
    assert_same_bits(found, {name: published[name] for name in found})


def test_backbone_weights_of_another_network_are_an_error(tmp_path):
    save_file(timm.create_model("vit_tiny_patch16_384").state_dict(), tmp_path / "a.safetensors")
    MAAGIQA(TINY_SCORER, str(tmp_path / "a.safetensors"))  # timm resamples the positions
    small = timm.create_model("vit_small_patch16_224").state_dict()
    save_file(small, tmp_path / "b.safetensors")
    with pytest.raises(ConfigError, match=rf"does not hold weights of '{TINY}'"):
        MAAGIQA(TINY_SCORER, str(tmp_path / "b.safetensors"))
    (tmp_path / "c.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=rf"does not hold weights of '{TINY}'"):
        MAAGIQA(TINY_SCORER, str(tmp_path / "c.safetensors"))


def test_without_a_network_pretrained_weights_are_an_error_not_a_random_start(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="--backbone-weights FILE"):
        MAAGIQA(TINY_SCORER, PRETRAINED)
    assert MAAGIQA(TINY_SCORER, NO_WEIGHTS).grid == 14


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_read(path):
    settings = load_config(path)
    assert settings.name
    assert settings.scorer_config().inputs


@pytest.mark.slow
def test_the_shipped_checkpoint_orders_damage_to_pictures_it_never_saw():
    """The photographs of scikit-image that are not in its list, at strengths between its own."""
    folder = Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")]
    scorer = ImageScorer.load(DEMO_CHECKPOINT)
    scores = score_versions(lambda many: scorer(many).score.squeeze(1).numpy(), paths)
    counts = count_pairs(scores)
    assert counts.ordered.sum() / counts.pairs.sum() >= 0.93
    by_kind = counts.groupby("degradation")[["ordered", "pairs"]].sum()
    for kind in ("blur", "downscale", "noise", "jpeg", "holes", "shuffle"):
        assert by_kind.ordered[kind] / by_kind.pairs[kind] >= 0.85, kind


def test_what_is_shipped_is_small():
    shipped = [
        DEMO_CHECKPOINT / "model.safetensors",
        *(ROOT / "model_repository" / "maniqa_moe").glob("1/model.pt"),
    ]
    assert len(shipped) == 2
    assert sum(path.stat().st_size for path in shipped) < 20_000_000
    assert json.loads((DEMO_CHECKPOINT / "metrics.json").read_text())["srcc"] >= 0.60
