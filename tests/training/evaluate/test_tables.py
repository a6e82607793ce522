"""Tables of results as Markdown."""

import math

import pytest

from ma_agiqa.evaluate.paper_results import PaperMetrics
from ma_agiqa.evaluate.tables import markdown, metric_cells, number, spread
from ma_agiqa.metrics.agreement import Metrics
from ma_agiqa.metrics.intervals import Interval, Intervals


def test_a_table_lines_up_and_keeps_its_texts():
    found = markdown(
        [
            {"name": "a|b", "SRCC": "0.8000", "images": "12"},
            {"name": "  a long name", "SRCC": "0.85 [0.8, 0.9]"},
        ]
    )
    assert found.splitlines() == [
        "| name        |            SRCC |   images |",
        "|:------------|----------------:|---------:|",
        "| a\\|b        |          0.8000 |       12 |",
        "| a long name | 0.85 [0.8, 0.9] |        - |",
    ]
    assert markdown([]) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.8, "0.8000"), (-0.05, "-0.0500"), (math.nan, "-"), (None, "-")]
)
def test_number(value, text):
    assert number(value) == text


def test_spread_is_that_of_a_sample():
    assert spread([0.8, 0.9]) == "0.8500 ± 0.0707"
    assert spread([0.8, math.nan]) == "-"


def test_metrics_of_any_kind_become_cells():
    metrics = Metrics(0.9, 0.91, 0.7, 0.4, math.nan, 5, True, 0.5, 0.4, 0.1)
    interval = Interval(0.85, 0.9499)
    cells = metric_cells(metrics, Intervals(*[interval] * 5, level=0.95, resamples=9, seed=0))
    assert cells["SRCC ↑"] == "0.9000 [0.850, 0.950]"
    assert cells["PLCC raw ↑"] == "-"
    paper = metric_cells(PaperMetrics(0.8800, 0.9196, 0.7031))
    assert list(paper.values()) == ["0.8800", "0.9196", "0.7031", "-", "-"]
