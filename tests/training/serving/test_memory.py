"""Batches that do not fit into memory. The allocations that fail are real ones."""

import pytest
import torch

from ma_agiqa.serving.memory import is_out_of_memory, run_in_parts

TOO_MUCH = 1 << 50
"""1 PB: no machine has it, and none hands it out."""


class Network:
    """Doubles its input; a batch above `limit` images asks for memory that no machine has."""

    def __init__(self, limit: int):
        self.limit = limit
        self.batches: list[int] = []

    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        self.batches.append(len(batch))
        if len(batch) > self.limit:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return {"twice": 2 * batch, "first": batch[:, :1]}


def parts(*sizes: int) -> list[torch.Tensor]:
    return [torch.randn(size, 3) for size in sizes]


def check(requests: list[torch.Tensor], answers: list) -> None:
    for request, answer in zip(requests, answers, strict=True):
        torch.testing.assert_close(answer["twice"], 2 * request, rtol=0, atol=0)
        torch.testing.assert_close(answer["first"], request[:, :1], rtol=0, atol=0)


def test_what_fits_runs_once():
    network, requests = Network(8), parts(1, 3, 4)
    check(requests, run_in_parts(network, requests))
    assert network.batches == [8]


def test_what_does_not_fit_runs_in_halves():
    network, requests = Network(2), parts(1, 1, 1, 1, 1)
    check(requests, run_in_parts(network, requests))
    assert network.batches == [5, 2, 3, 1, 2]


def test_one_request_of_many_images_is_divided_too():
    network, requests = Network(2), parts(5)
    check(requests, run_in_parts(network, requests))
    assert max(network.batches[-2:]) <= 2


def test_an_image_that_does_not_fit_is_the_fault_of_its_request_alone():
    class Picky(Network):
        def __call__(self, batch):
            self.limit = 0 if (batch[:, 0] > 100).any() else 8
            return super().__call__(batch)

    requests = parts(1, 1, 1)
    requests[1][0, 0] = 1000.0
    answers = run_in_parts(Picky(8), requests)
    assert answers[1] is None
    check([requests[0], requests[2]], [answers[0], answers[2]])


def test_other_errors_are_not_tried_again():
    def broken(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_in_parts(broken, parts(2))


def test_the_errors_of_each_allocator_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
