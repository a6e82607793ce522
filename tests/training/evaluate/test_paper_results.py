"""The tables agree with each other and with the gains that the paper states in prose.

The paper cuts or rounds its percentages to two digits, so 0.01 points (1e-4) may be missing.
"""

import pytest

from ma_agiqa.evaluate.paper_results import (
    ABLATION,
    AIGCQA_20K,
    COMPARISON,
    CROSS,
    DATASETS,
    DIGITAL_SUBSET_SRCC,
    FUSION,
    METHODS,
    OURS,
    PaperMetrics,
)

ALL_INPUTS = ("coherence", "quality", "semantic")


def gains(better: PaperMetrics, worse: PaperMetrics) -> list[float]:
    """Relative gains of SRCC, PLCC and KRCC in percent."""
    pairs = [(better.srcc, worse.srcc), (better.plcc, worse.plcc), (better.krcc, worse.krcc)]
    return [100 * (high / low - 1) for high, low in pairs]


@pytest.mark.parametrize(
    ("tables", "better", "worse", "stated"),
    [
        (COMPARISON, OURS, "MANIQA", ([3.72, 1.73, 5.43], [1.61, 2.02, 2.90])),
        (ABLATION, ALL_INPUTS, ("quality",), ([1.57, 0.83, 2.56], [2.72, 1.94, 4.35])),
        (FUSION, "moe", "concat", ([0.20, 0.17, 0.16], [0.67, 0.95, 1.37])),
    ],
    ids=["over MANIQA (section 4.3)", "of both features (4.4)", "of the experts (4.4)"],
)
def test_gains_are_those_that_the_text_states(tables, better, worse, stated):
    for dataset, expected in zip(DATASETS, stated, strict=True):
        rows = tables[dataset]
        assert gains(rows[better], rows[worse]) == pytest.approx(expected, abs=0.011), dataset


def test_fig_2_states_how_far_maniqa_falls_below_its_srcc_of_table_1():
    share = 1 - DIGITAL_SUBSET_SRCC["MANIQA"] / COMPARISON[AIGCQA_20K]["MANIQA"].srcc
    assert share == pytest.approx(0.700, abs=0.001)


@pytest.mark.parametrize("dataset", DATASETS)
def test_our_row_is_the_same_in_tables_1_3_4_and_5(dataset):
    ours = COMPARISON[dataset][OURS]
    assert FUSION[dataset]["moe"] == ours
    ablation = ABLATION[dataset][ALL_INPUTS]
    assert (ablation.srcc, ablation.plcc, ablation.krcc) == (ours.srcc, ours.plcc, ours.krcc)


@pytest.mark.parametrize("dataset", DATASETS)
def test_ours_is_best_and_maniqa_second_in_table_1(dataset):
    rows = COMPARISON[dataset]
    assert tuple(rows) == METHODS
    assert len(rows) == 13  # MA-AGIQA and 12 others
    for metric in ("srcc", "plcc", "krcc"):
        ranked = sorted(rows, key=lambda name: getattr(rows[name], metric), reverse=True)
        assert ranked[:2] == [OURS, "MANIQA"]
    assert min(rows, key=lambda name: rows[name].rmse) == OURS


def test_table_2_names_both_directions_and_ours_is_best():
    assert set(CROSS) == {DATASETS, DATASETS[::-1]}
    for rows in CROSS.values():
        assert max(rows, key=lambda name: rows[name].srcc) == OURS
        assert set(rows) == {OURS, "HyperIQA", "StairIQA"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_ablation_has_the_seven_combinations_as_sorted_tuples(dataset):
    assert len(ABLATION[dataset]) == 7
    assert all(inputs == tuple(sorted(inputs)) for inputs in ABLATION[dataset])
