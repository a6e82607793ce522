"""Recorded passes, with stand-ins for the recordings: sizes, failures and threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from ma_agiqa.lmm import cuda_graphs
from ma_agiqa.lmm.cuda_graphs import SIZES, BatchGraphs
from support.fake_gpu import StandInRecording

SIDE = 2


class Passes:
    """Work that counts its batches, and fails for those of a size or more."""

    def __init__(self, fails_from: int = 1000) -> None:
        self.sizes: list[int] = []
        self.fails_from = fails_from

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) >= self.fails_from:
            raise torch.OutOfMemoryError
        time.sleep(0.001)  # where another thread would write its images
        return images.float().mean(dim=(1, 2, 3))[None, :, None].clone()


@pytest.fixture(autouse=True)
def event(monkeypatch) -> Mock:
    """The event between two calls; there is no GPU."""
    event = Mock()
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    return event


@pytest.fixture
def recorded(monkeypatch) -> list[int]:
    """The sizes that were recorded."""
    sizes: list[int] = []

    class Listed(StandInRecording):
        def __init__(self, work, given, pool):
            sizes.append(len(given))
            super().__init__(work, given, pool)

    monkeypatch.setattr(cuda_graphs, "Recording", Listed)
    return sizes


def make(work: Passes) -> BatchGraphs:
    return BatchGraphs(work, SIDE, torch.device("cpu"))


def views(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, SIDE, SIDE, 3)


def assert_right(graphs: BatchGraphs, first: int, count: int) -> None:
    values = [(first + i) % 256 for i in range(count)]
    assert graphs(views(values)).flatten().tolist() == values


def test_every_size_is_recorded_at_once_and_the_largest_first(recorded):
    work = Passes()
    graphs = make(work)
    assert recorded == sorted(SIZES, reverse=True)
    work.sizes.clear()
    for count in (1, 3, 32, 5, 70):
        assert_right(graphs, 10 * count, count)
    assert recorded == sorted(SIZES, reverse=True)
    assert work.sizes == [1, 4, 32, 8, 32, 32, 8]


def test_a_size_that_cannot_be_recorded_runs_directly(monkeypatch, caplog):
    class Refusing(StandInRecording):
        def __init__(self, work, given, pool):
            if len(given) == 8:
                raise RuntimeError("operation not permitted when stream is capturing")
            super().__init__(work, given, pool)

    monkeypatch.setattr(cuda_graphs, "Recording", Refusing)
    graphs = make(Passes())
    assert "Batches of 8 images run without a CUDA graph: operation not" in caplog.text
    for count in (7, 16):
        assert_right(graphs, 0, count)


def test_a_size_without_enough_memory_is_not_tried_again(recorded, caplog):
    work = Passes(fails_from=16)
    graphs = make(work)
    assert recorded == [8, 4, 2, 1]
    assert "Too little GPU memory for 32 images" in caplog.text
    work.sizes.clear()
    assert_right(graphs, 0, 20)
    assert work.sizes == [8, 8, 4]


def test_too_little_memory_for_one_image_is_an_error(recorded):
    with pytest.raises(torch.OutOfMemoryError):
        make(Passes(fails_from=1))


def test_a_call_waits_for_the_end_of_the_one_before(recorded, event):
    """Calls on streams of their own would otherwise write into each other's memory."""
    work = Mock(side_effect=Passes(fails_from=32))
    event.attach_mock(work, "work")
    graphs = make(work)
    event.reset_mock()
    assert_right(graphs, 0, 1)
    work.side_effect = RuntimeError
    with pytest.raises(RuntimeError):
        graphs(views([1]))
    assert [name for name, *_ in event.mock_calls] == ["wait", "work", "record"] * 2


def test_threads_get_their_own_images(recorded):
    graphs = make(Passes())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: assert_right(graphs, 7 * n, 2), range(40)))
