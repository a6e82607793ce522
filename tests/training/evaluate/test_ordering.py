"""How often a scorer prefers the less damaged version, on scorers whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from ma_agiqa.commands.ordering import main
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.evaluate.ordering import count_pairs, ordering_table, score_versions

KINDS, STRENGTHS = ("blur", "noise"), (0.9, 0.2, 0.5)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def sharpness(versions):
    """Rewards detail: it orders blur correctly, and noise, which is detail, wrongly."""
    return np.array([np.abs(np.diff(v.astype(float), axis=1)).mean() for v in versions])


def test_each_version_is_scored_once_and_the_same_each_time(pictures):
    paths = sorted(pictures.iterdir())
    scores = score_versions(sharpness, paths, KINDS, STRENGTHS)
    assert len(scores) == 3 * (1 + 2 * 3)
    pd.testing.assert_frame_equal(scores, score_versions(sharpness, paths, KINDS, STRENGTHS))
    alone = score_versions(sharpness, paths[1:2], KINDS, STRENGTHS)  # whatever else is measured
    other = scores[scores.picture == str(paths[1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, other)


def test_a_scorer_that_rewards_detail_orders_blur(pictures):
    scores = score_versions(sharpness, sorted(pictures.iterdir()), ("blur",), STRENGTHS)
    table = ordering_table(count_pairs(scores)).set_index("degradation")
    assert list(table.index) == ["blur", "all"]
    assert table.loc["blur", ["pairs", "ordered", "low", "high", "reversed"]].tolist() == [
        18, 1.0, 1.0, 1.0, 0.0,
    ]  # fmt: skip


def by_hand(*scores: float) -> pd.DataFrame:
    """One picture, its score first, then those of damage of rising strength."""
    kinds = ["none"] + ["blur"] * (len(scores) - 1)
    strengths = [0.0, 0.3, 0.6, 0.9][: len(scores)]
    columns = {"picture": "a", "degradation": kinds, "strength": strengths, "score": scores}
    return pd.DataFrame(columns).sample(frac=1, random_state=0)  # their order does not matter


@pytest.mark.parametrize(
    ("scores", "ordered", "failed"),
    [
        ((4, 3, 2, 1), 6, False),
        ((1, 2, 3, 4), 0, True),
        ((4, 3, 3, 1), 5, False),
        ((2, 2, 2, 2), 0, True),
        ((3, 4, 2, 1), 5, False),
        ((3, 1, 2, 3), 2, True),
        ((4, float("nan"), 2, 1), 3, False),
    ],
    ids=["right", "reversed", "a tie", "all equal", "one pair", "strongest as good", "no number"],
)
def test_pairs_are_counted(scores, ordered, failed):
    (row,) = count_pairs(by_hand(*scores)).to_dict("records")
    assert (row["pairs"], row["ordered"], row["reversed"]) == (6, ordered, failed)


def test_the_interval_is_that_of_the_pictures():
    rows = [(str(i), "blur", 6, 6 if i % 2 else 0, i % 2 == 0) for i in range(20)]
    pairs = pd.DataFrame(rows, columns=["picture", "degradation", "pairs", "ordered", "reversed"])
    last = ordering_table(pairs).iloc[-1]
    assert (last.degradation, last.pairs, last.ordered, last.reversed) == ("all", 120, 0.5, 0.5)
    assert 0.25 <= last.low <= 0.35  # 0.28 by the normal law of 20 pictures; 0.41 of 120 pairs
    assert 0.65 <= last.high <= 0.75


def test_what_cannot_be_measured_is_an_error(pictures, tmp_path):
    paths = sorted(pictures.iterdir())
    with pytest.raises(ConfigError, match="not all different"):
        score_versions(sharpness, paths, KINDS, (0.5, 0.5))
    with pytest.raises(ConfigError, match="Unknown degradation 'rust'"):
        score_versions(sharpness, paths, ("rust",))
    with pytest.raises(DataError, match="no pictures"):
        score_versions(sharpness, [])
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no\.png cannot be scored"):
        score_versions(sharpness, [tmp_path / "no.png"])


def test_the_command_reports_each_kind(pictures, small_run, tmp_path, caplog):
    caplog.set_level("INFO")
    options = ["--degradations", "blur,holes", "--strengths", "0.2,0.8"]
    done = CliRunner().invoke(
        main,
        ["--checkpoint", str(small_run.checkpoint), *options, "--output",
         str(tmp_path / "new" / "scores.csv"), str(pictures)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3 pictures" in done.stdout
    assert "The scorer computes" in caplog.text  # after it was compared
    for kind, pairs in (("blur", 9), ("holes", 9), ("all", 18)):
        assert any(kind in line and str(pairs) in line for line in done.stdout.splitlines())
    assert len(pd.read_csv(tmp_path / "new" / "scores.csv")) == 3 * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--strengths", "much"], "not numbers"), (["--degradations", "rust"], "Unknown")],
)
def test_the_command_says_what_is_wrong(pictures, small_run, options, message):
    command = ["--checkpoint", str(small_run.checkpoint), *options, str(pictures)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code != 0
    assert message in done.stderr
