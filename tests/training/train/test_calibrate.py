"""Intervals and familiarity: what they promise, and how they travel with a checkpoint."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from exporter.formats import BACKENDS
from ma_agiqa.checkpoints import load_calibration, load_scorer, save_checkpoint
from ma_agiqa.commands.calibrate import main
from ma_agiqa.data.foreign import foreign_pictures
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.networks.calibration import (
    CalibratedOutput,
    CalibratedScorer,
    Calibration,
    UncalibratedScorer,
)
from ma_agiqa.networks.scorer import ScorerOutput
from ma_agiqa.train import calibrate
from ma_agiqa.train.calibrate import Observed, auroc, fit, measure_intervals, measure_pairs, reach
from ma_agiqa.train.predict import predict
from support.pictures import noise
from support.tiny_scorer import CARD, make_scorer

TOKENS = 12
SHIPPED = Path(__file__).resolve().parents[3] / "training" / "checkpoints" / "demo"


def observed(count: int, seed: int) -> Observed:
    """Scores whose errors grow with the score from 0.1 to 0.6, in 5 pictures of each source."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0, 5, count)
    mos = score + rng.standard_normal(count) * (0.1 + 0.1 * score)
    patches = torch.from_numpy(rng.uniform(0.1, 1, (count, 2, 2))).float()
    output = ScorerOutput(
        torch.from_numpy(score[:, None]).float(),
        torch.from_numpy(rng.uniform(0, 1, (count, 3))).float(),
        patches,
        patches / 2,
    )
    groups = [f"source {index // 5}" for index in range(count)]
    return Observed(output, tokens(count, seed), mos, groups)


def tokens(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng([seed, 1])
    return torch.from_numpy(rng.standard_normal((count, TOKENS)) + shift).float()


def fitted(seed: int = 0, count: int = 400) -> tuple[Calibration, dict]:
    return fit(tokens(500, 1000 + seed), observed(count, seed), {"far": tokens(100, 7, 5.0)})


def test_intervals_hold_what_they_promise():
    """One calibration of 400 errs by 1.5 % (one sigma); the mean of 6 by 0.6 %, here 3 of them."""
    truth = observed(10_000, 99)
    coverage = [measure_intervals(fitted(seed)[0], truth)["coverage"] for seed in range(6)]
    assert np.mean(coverage) == pytest.approx(0.9, abs=0.018)
    assert max(abs(one - 0.9) for one in coverage) < 0.06


def test_intervals_are_wide_where_errors_are_large():
    calibration, _ = fitted()
    truth = observed(4000, 5)
    found = calibration(truth.output, truth.description)
    width = (found.interval[:, 1] - found.interval[:, 0]).numpy()
    score = truth.output.score[:, 0].numpy()
    wide, narrow = width[score > 4].mean(), width[score < 1].mean()
    assert wide / narrow == pytest.approx(0.55 / 0.15, rel=0.4)
    middle = found.interval.mean(1, keepdim=True)
    torch.testing.assert_close(middle, truth.output.score, rtol=0, atol=1e-5)


def test_comparisons_come_out_as_often_as_their_probability_says():
    """Of 2,000 pictures, most in pairs of clear order; one sigma of each tenth is about 1.5 %."""
    calibration, record = fitted(count=1000)
    found = measure_pairs(calibration, observed(2000, 98), record["errors"])
    assert found["count"] > 15_000
    assert found["largest_miss"] < 0.05
    shifted = dataclasses.replace(observed(2000, 98), mos=observed(2000, 97).mos)
    assert measure_pairs(calibration, shifted, record["errors"])["largest_miss"] > 0.2
    one_group = measure_pairs(calibration, observed(5, 98), record["errors"])
    assert one_group == {"count": 0, "largest_miss": None}


def test_pictures_of_one_group_are_calibrated_as_if_each_stood_alone():
    together = dataclasses.replace(observed(400, 0), groups=["a prompt"] * 400)
    _, record = fit(tokens(500, 1000), together, {"far": tokens(100, 7, 5.0)})
    assert record["groups"] == 1
    assert 1 < record["reach"] < 3


@pytest.mark.parametrize(
    ("count", "level", "place"), [(9, 0.9, 9), (19, 0.9, 18), (99, 0.9, 90), (99, 0.95, 95)]
)
def test_the_reach_is_the_quantile_that_a_sample_supports(count, level, place):
    ratios = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert reach(ratios, level) == place


def test_too_few_pictures_support_no_interval():
    assert reach(np.ones(8), 0.9) is None
    with pytest.raises(ConfigError, match=r"has 49 images: too few .* At least 50 are needed"):
        fitted(count=49)
    with pytest.raises(ConfigError, match="At least 100 are needed"):
        fit(tokens(50, 0), observed(60, 0), {"far": tokens(10, 1, 5.0)}, level=0.99)


def test_the_card_can_state_other_levels():
    calibration, record = fitted()
    reaches = [record["reaches"][name] for name in ("0.5", "0.8", "0.9", "0.95", "0.99")]
    assert reaches == sorted(reaches)
    assert record["reaches"]["0.9"] == record["reach"] == pytest.approx(float(calibration.reach))
    errors = np.array(record["errors"])
    assert np.mean(errors**2) == pytest.approx(1, abs=0.15)  # they are in deviations


def test_familiarity_is_the_share_of_held_out_pictures_that_are_farther():
    calibration, _ = fitted()
    held_out = calibration.familiarity(calibration.distance(tokens(4000, 3)))
    assert held_out.mean().item() == pytest.approx(0.5, abs=0.08)  # of 400: 0.014 (one sigma)
    assert (held_out < 0.1).float().mean().item() == pytest.approx(0.1, abs=0.06)
    far = calibration.familiarity(calibration.distance(tokens(50, 4, 5.0)))
    assert far.max().item() == 0
    assert auroc(calibration, tokens(200, 5), tokens(200, 6, 5.0)) == 1
    assert auroc(calibration, tokens(400, 5), tokens(400, 6)) == pytest.approx(0.5, abs=0.1)


def test_what_tells_foreign_pictures_best_measures_the_distance():
    """Two clusters with foreign pictures between them are for neighbors, not for one center."""

    def clusters(count: int, seed: int) -> torch.Tensor:
        places = 0.5 * tokens(count, seed)[:, :2]
        places[:, 0] += torch.tensor([-6.0, 6.0]).repeat(count // 2)
        return places

    held_out = dataclasses.replace(observed(100, 0), description=clusters(100, 1))
    calibration, record = fit(clusters(500, 0), held_out, {"between": 0.5 * tokens(100, 2)[:, :2]})
    assert "nearest" in record["familiarity"]["method"]
    assert auroc(calibration, clusters(100, 3), 0.5 * tokens(100, 4)[:, :2]) > 0.9


def test_autocast_changes_nothing(monkeypatch):
    monkeypatch.setattr(calibrate, "_FOREIGN", 2)
    inputs = {"quality_view": torch.from_numpy(noise(0, 224, 224)), "labels": torch.ones(())}
    samples = [inputs | dict.fromkeys(("semantic", "coherence"), torch.ones(8))]
    scorer = make_scorer()

    def found() -> list[np.ndarray]:
        seen = calibrate.observe(scorer, samples, ["a group"])
        described = calibrate.describe_foreign(scorer).values()
        return [predict(scorer, samples).scores, seen.description, torch.cat([*described])]

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(expected, found(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_foreign_pictures_are_the_same_everywhere_and_differ():
    first, again = (foreign_pictures(3, 64, seed=4) for _ in range(2))
    assert list(first) == ["noise", "text pages", "drawings"]
    for kind, pictures in first.items():
        assert pictures.shape == (3, 64, 64, 3)
        assert pictures.dtype == np.uint8
        np.testing.assert_array_equal(pictures, again[kind])
        assert len({picture.tobytes() for picture in pictures}) == 3


@pytest.fixture(scope="module")
def calibrated(small_run, tmp_path_factory) -> tuple[Path, dict]:
    """The small run with 60 images in its validation part, calibrated by the command."""
    folder = Path(shutil.copytree(small_run.checkpoint, tmp_path_factory.mktemp("run") / "run"))
    table = pd.read_csv(folder / "split.csv")
    table["part"] = ["validation"] * 60 + ["train"] * 10 + ["test"] * 10
    table.to_csv(folder / "split.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "_FOREIGN", 20)
        done = CliRunner().invoke(main, [str(folder)])
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)


def test_the_command_calibrates_a_checkpoint(calibrated):
    folder, record = calibrated
    calibration, kept = load_calibration(folder)
    assert kept == record == load_scorer(folder)[1].calibration
    assert record["level"] == 0.9
    assert record["count"] == 60
    assert set(record["familiarity"]["auroc"]) == {"noise", "text pages", "drawings"}
    assert record["test"]["count"] == 10
    assert 0 <= record["test"]["coverage"] <= 1
    assert record["validation"]["coverage"] >= 0.8
    assert len(calibration.bank) in (1, 10)


def test_the_intervals_of_the_shipped_model_hold_what_they_promise():
    """On its test part, which it never saw."""
    _, record = load_calibration(SHIPPED)
    assert record["test"]["coverage"] == pytest.approx(record["level"], abs=0.03)
    assert 0 < record["test"]["width"] < 5
    if "pairs" in record["test"]:  # calibrated since these are measured
        assert record["test"]["pairs"]["largest_miss"] < 0.05
    found = record["familiarity"]["auroc"]
    assert set(found) == {"noise", "text pages", "drawings"}
    assert min(found.values()) > 0.85


def test_a_small_validation_part_leaves_a_run_without_intervals(small_run):
    assert load_calibration(small_run.checkpoint) is None
    assert load_scorer(small_run.checkpoint)[1].calibration == {}


def test_a_calibration_of_other_weights_is_refused(calibrated, tmp_path):
    folder, _ = calibrated
    other = save_checkpoint(tmp_path / "other", make_scorer(), CARD)
    shutil.copy(folder / "calibration.safetensors", other)
    with pytest.raises(CheckpointError, match=r"is of other weights .* ma_agiqa calibrate"):
        load_scorer(other)
    (other / "calibration.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"cannot be read: .* Remove the file; `python"):
        load_scorer(other)


def test_embeddings_of_another_embedder_are_refused(small_run, tmp_path):
    scorer, card = load_scorer(small_run.checkpoint)
    embedder = {**card.embedder, "weights_sha256": "0" * 64}
    other = save_checkpoint(
        tmp_path / "other", scorer, dataclasses.replace(card, embedder=embedder)
    )
    shutil.copy(small_run.checkpoint / "split.csv", other)
    done = CliRunner().invoke(main, [str(other)])
    assert done.exit_code == 1
    assert "was trained on the embeddings of another embedder" in done.output


def test_a_scorer_without_quality_cannot_be_calibrated(small_run, tmp_path):
    _, card = load_scorer(small_run.checkpoint)
    other = save_checkpoint(
        tmp_path / "other", make_scorer(inputs=("semantic", "coherence"), semantic_dim=128), card
    )
    shutil.copy(small_run.checkpoint / "split.csv", other)
    done = CliRunner().invoke(main, [str(other)])
    assert done.exit_code == 1
    assert "it does not look at the pixels" in done.output


@pytest.mark.parametrize(
    "backend", ["libtorch", pytest.param("onnxruntime", marks=pytest.mark.slow)]
)
def test_exported_scorers_give_interval_and_familiarity(calibrated, backend, tmp_path):
    folder, _ = calibrated
    scorer, _ = load_scorer(folder)
    both = CalibratedScorer(scorer, load_calibration(folder)[0]).eval()
    assert BACKENDS[backend].export(both, tmp_path) < 1e-4
    view = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    output = both(view, torch.zeros(2, 128), torch.zeros(2, 128))
    assert isinstance(output, CalibratedOutput)
    plain = scorer(view, torch.zeros(2, 128), torch.zeros(2, 128))
    for name in ScorerOutput._fields:  # a calibration changes no score, not by a bit
        assert torch.equal(getattr(output, name), getattr(plain, name))
    # A version without calibration is served like this next to one that has it.
    assert BACKENDS[backend].export(UncalibratedScorer(scorer).eval(), tmp_path) < 1e-4
    assert output.interval.shape == (2, 2)
    assert output.familiarity.shape == (2, 1)
