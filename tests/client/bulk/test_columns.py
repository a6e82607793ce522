"""The names of columns that a bulk job refuses. Runs without the extra `bulk`."""

import pytest

from ma_agiqa_client.bulk._columns import RESULTS, name_conflict


@pytest.mark.parametrize("name", RESULTS)
def test_names_of_the_scores_are_refused(name):
    for columns in ([name], ["image", name], ["image", "id", name]):
        assert f"The column {name} of the input" in name_conflict(columns)


def test_other_names_are_kept():
    assert name_conflict(["image", "id", "MOS", "gate", "mos_of_people"]) is None
