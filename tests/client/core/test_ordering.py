"""The order of scores."""

import itertools

import pytest

from ma_agiqa_client import Failure, InvalidImageError, Score
from ma_agiqa_client._core.ordering import Sequencer, best_first
from support.scripted_server import GATE


def scored(index, mos=1.0):
    return Score(None, mos, 0.5, 50.0, GATE, 1.0, "tiny", index=index)


def failed(index, reason="no"):
    return Failure(None, InvalidImageError(reason), index=index)


@pytest.mark.parametrize("arrivals", list(itertools.permutations(range(4))))
def test_every_order_of_arrival_is_put_right(arrivals):
    sequencer, given = Sequencer(ordered=True), []
    for taken, index in enumerate(arrivals):
        given += [score.index for score in sequencer.add(scored(index))]
        assert len(given) <= taken + 1
    assert given == [0, 1, 2, 3]


def test_as_they_come():
    sequencer = Sequencer(ordered=False)
    assert [s.index for i in (2, 0, 1) for s in sequencer.add(scored(i))] == [2, 0, 1]


def test_the_best_come_first_and_failures_last():
    scores = [failed(0), scored(3, 1.0), scored(1, 2.0), scored(2, 2.0), failed(4)]
    assert [s.index for s in best_first(scores, None)] == [1, 2, 3, 0, 4]
    assert [s.index for s in best_first(scores, 2)] == [1, 2]


def test_a_negative_mos_ranks_above_a_failure():
    assert [s.index for s in best_first([failed(0), scored(1, -1.0)], None)] == [1, 0]


def test_if_nothing_could_be_scored_the_first_reason_is_raised():
    with pytest.raises(InvalidImageError, match="first"):
        best_first([failed(1, "second"), failed(0, "first")], None)
    assert best_first([], 3) == []


def test_top_is_positive():
    with pytest.raises(ValueError, match="top"):
        best_first([], 0)
