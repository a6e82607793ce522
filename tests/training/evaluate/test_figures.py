"""Figures: what they show is what the predictions say, and what is wrong is named."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from ma_agiqa.commands.figures import main
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.figures import (
    choose_images,
    draw_differences,
    draw_gates,
    draw_panel,
    draw_scatter,
    save,
    worst_images,
)
from ma_agiqa.evaluate.figures.answers import draw_answers
from ma_agiqa.evaluate.predictions import GATE_COLUMNS, write_predictions
from ma_agiqa.metrics.agreement import evaluate, fit_logistic, logistic

COUNT = 40


def frame_of(noise, seed=0, generator=True):
    rng = np.random.default_rng(seed)
    mos = np.random.default_rng(99).uniform(0, 5, COUNT)
    gates = rng.uniform(0, 1, (COUNT, 3))
    return pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(COUNT)],
            "mos": mos,
            "score": mos + rng.normal(0, noise, COUNT),
            "prompt": "",
            "group": "",
            "generator": [f"g{i % 3}" if generator else "" for i in range(COUNT)],
            **dict(zip(GATE_COLUMNS, gates.T, strict=True)),
        }
    )


@pytest.fixture
def ours():
    return frame_of(0.3, seed=1)


@pytest.fixture
def baseline():
    return frame_of(0.8, seed=2)


def pictures(folder, count=COUNT):
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (20 + i, 60 - i, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def texts(figure):
    """Every text of a figure that is shown."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    return found + [text.get_text() for text in figure.texts]


def test_scatter_shows_every_image_the_curve_and_the_metrics(ours):
    (axes,) = draw_scatter(ours, "mine").axes
    points = axes.collections[0].get_offsets()
    np.testing.assert_allclose(points, ours[["score", "mos"]].to_numpy())
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(y, logistic(x, *fit_logistic(ours["mos"], ours["score"])))
    assert axes.get_xlabel() == "score predicted by mine"
    assert axes.get_ylabel() == "mean opinion score (MOS)"
    found = evaluate(ours["mos"], ours["score"])
    assert f"SRCC {found.srcc:.4f}\nPLCC {found.plcc:.4f}" in axes.texts[0].get_text()


def test_scatter_without_a_curve_still_shows_the_points(ours):
    (axes,) = draw_scatter(ours.assign(score=1.0), "flat").axes
    assert len(axes.lines) == 0
    assert "SRCC -" in axes.texts[0].get_text()


def test_differences_are_densities_over_the_worst_images(ours, baseline):
    errors = (baseline["score"] - baseline["mos"]).abs()
    worst = worst_images(baseline, 15)
    assert len(worst) == 15
    assert errors[worst].min() >= errors.drop(worst).max()
    (axes,) = draw_differences(ours, baseline, "mine", "theirs", 15).axes
    for patches, table in zip((axes.patches[:2], axes.patches[2:]), (baseline, ours), strict=True):
        values, edges, _ = patches[0].get_data()
        np.testing.assert_allclose(np.diff(edges), 0.1)
        assert np.sum(values * 0.1) == pytest.approx(1)
        shown = (table.loc[worst, "score"] - table.loc[worst, "mos"]).abs()
        assert values[0] * 0.1 * 15 == pytest.approx((shown < 0.1).sum())
        assert edges[-1] > shown.max()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"theirs: mean {errors[worst].mean():.2f}"
    assert axes.get_xlabel() == "|score - MOS|, in units of MOS"


def test_fewer_images_than_asked_for_are_all_shown(ours, baseline):
    assert len(worst_images(baseline, 300)) == COUNT
    assert "40 images" in texts(draw_differences(ours, baseline, "a", "b", 300))[0]


def test_gates_are_medians_and_quartiles_by_generator(ours):
    figure = draw_gates(ours, "mine")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    means = ours.groupby("generator")["mos"].mean().sort_values(ascending=False)
    sizes = ours["generator"].value_counts()
    assert labels == [f"{name} ({sizes[name]})" for name in means.index]
    for axes, column in zip(figure.axes, GATE_COLUMNS, strict=True):
        best = ours[ours["generator"] == means.index[0]][column]
        line, point = axes.lines[:2]
        assert list(line.get_xdata()) == pytest.approx([best.quantile(0.25), best.quantile(0.75)])
        assert point.get_xdata()[0] == pytest.approx(best.median())
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "semantic",
        "coherence",
        "quality",
    ]


def test_without_generators_gates_go_by_fifths_of_the_mos():
    figure = draw_gates(frame_of(0.3, generator=False), "mine")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 5
    assert all(label.startswith("MOS ") and label.endswith("(8)") for label in labels)
    few = draw_gates(frame_of(0.3, generator=False).head(3), "mine")
    assert len(few.axes[0].get_yticklabels()) == 3  # a fifth without images is not drawn


def test_without_gates_there_is_no_figure_of_them(ours):
    with pytest.raises(DataError, match="no gate weights"):
        draw_gates(ours.assign(gate_quality=np.nan), "mine")


def test_panel_shows_where_the_baseline_is_worst_and_ours_nearer(ours, baseline, tmp_path):
    chosen = choose_images(ours, baseline, 6)
    errors = (baseline["score"] - baseline["mos"]).abs()
    nearer = errors[(ours["score"] - ours["mos"]).abs() < errors]
    assert list(errors[chosen]) == sorted(nearer, reverse=True)[:6]
    figure = draw_panel(ours, baseline, pictures(tmp_path), "mine", "theirs", 6)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6
    row = chosen[0]
    assert [text.get_text() for text in shown[0].texts] == [
        "MOS",
        f"{ours.loc[row, 'mos']:.2f}",
        "theirs",
        f"{baseline.loc[row, 'score']:.2f}",
        "mine",
        f"{ours.loc[row, 'score']:.2f}",
    ]
    left, right, bottom, top = shown[0].images[0].get_extent()
    assert (right - left) / (top - bottom) == pytest.approx((60 - row) / (20 + row))
    assert f"of the {len(nearer)} images (of 40) on which mine is nearer" in texts(figure)[-1]


def test_panel_names_what_it_cannot_read(ours, baseline, tmp_path):
    pictures(tmp_path)
    row = choose_images(ours, baseline, 1)[0]
    (tmp_path / f"{row}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"Row {row + 2} of the predictions: .*{row}\.png"):
        draw_panel(ours, baseline, tmp_path, "a", "b", 1)
    (tmp_path / f"{row}.png").unlink()
    with pytest.raises(DataError, match=rf"{row}\.png: No such file"):
        draw_panel(ours, baseline, tmp_path, "a", "b", 1)
    with pytest.raises(DataError, match="on no image nearer"):
        draw_panel(ours, ours, tmp_path, "a", "b", 1)


def test_command_draws_all_that_it_can(ours, baseline, tmp_path):
    write_predictions(ours, tmp_path / "ours.csv")
    write_predictions(baseline, tmp_path / "maniqa.csv")
    (tmp_path / "images").mkdir()
    pictures(tmp_path / "images")
    run = CliRunner().invoke
    first = run(main, ["--predictions", f"{tmp_path}/ours.csv", "--output", f"{tmp_path}/one"])
    assert first.exit_code == 0, first.output
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"scatter.png", "gates.png"}
    assert "Not drawn: differences and panel (give --baseline)." in first.stderr
    arguments = ["--predictions", f"{tmp_path}/ours.csv", "--baseline", f"{tmp_path}/maniqa.csv"]
    arguments += ["--images", f"{tmp_path}/images", "--output", f"{tmp_path}/all", "--fitted"]
    second = run(main, arguments)
    assert second.exit_code == 0, second.output
    names = {"scatter.png", "gates.png", "differences.png", "panel.png"}
    assert {path.name for path in (tmp_path / "all").iterdir()} == names
    for name in names:
        with Image.open(tmp_path / "all" / name) as image:
            assert image.width == 1152
            assert np.ptp(np.asarray(image.convert("L"))) > 200
    assert second.stdout.split() == [
        f"{tmp_path}/all/{stem}.png" for stem in ("scatter", "gates", "differences", "panel")
    ]


def test_command_refuses_predictions_of_other_images(ours, baseline, tmp_path):
    write_predictions(ours, tmp_path / "ours.csv")
    write_predictions(baseline.iloc[1:], tmp_path / "b.csv")
    arguments = ["--predictions", f"{tmp_path}/ours.csv", "--baseline", f"{tmp_path}/b.csv"]
    result = CliRunner().invoke(main, [*arguments, "--output", f"{tmp_path}/out"])
    assert result.exit_code == 1
    assert "has no row for 1 of the 40 images to compare, such as 0.png" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_pdf_and_a_folder_that_cannot_be_written(ours, tmp_path):
    figure = draw_scatter(ours, "mine")
    assert save(figure, tmp_path / "new" / "a.pdf").read_bytes().startswith(b"%PDF")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"Cannot write .*taken.a\.png"):
        save(figure, tmp_path / "taken" / "a.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.pdf"]


@pytest.mark.parametrize("scale", [1, 20, 0.02, 1e4])
def test_bins_follow_the_scale_of_the_mos(ours, baseline, scale, tmp_path):
    for frame in (ours, baseline):
        frame[["mos", "score"]] *= scale
    figure = draw_differences(ours, baseline, "ours", "theirs")
    (axes,) = figure.axes
    bins = len(axes.patches[0].get_data().values)
    assert 3 <= bins <= 51
    save(figure, tmp_path / "a.png")  # lays the ticks out
    assert len(axes.get_xticks()) < 15


def test_names_may_hold_dollar_signs(ours, baseline, tmp_path):
    ours["generator"] = "gen$1_$2^"
    paths = [tmp_path / f"{name}.csv" for name in ("ours", "theirs")]
    for frame, path in zip((ours, baseline), paths, strict=True):
        write_predictions(frame, path)
    options = ["--predictions", str(paths[0]), "--name", "v$a_{$", "--baseline", str(paths[1])]
    images = ["--images", str(pictures(tmp_path)), "--output", str(tmp_path / "figures")]
    done = CliRunner().invoke(main, [*options, "--baseline-name", "$$", *images])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_answers_stand_next_to_their_images(tmp_path):
    pixels = np.zeros((30, 60, 3), np.uint8)
    answers = {"Is it good?": "It is. " * 30, "Costs $1?": "Yes, $1_2."}
    figure = draw_answers([(pixels, answers), (pixels, {"Why?": "Because."})])
    shown = [text for text in texts(figure) if text]
    assert len(shown) == 2
    assert "Is it good?\n→ It is." in shown[0]
    assert "→ Yes, $1_2." in shown[0]
    assert max(map(len, shown[0].splitlines())) <= 62
    assert save(figure, tmp_path / "a.png").stat().st_size > 1000
