"""Work that no one waits for is not done, in any step of the shipped ensemble."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ma_agiqa_client import DeadlineExceededError, Scorer, ServerUnavailableError
from support.pictures import picture
from support.triton_requests import image_tensor, images_computed, infer

IMAGE = next((Path(__file__).resolve().parents[2] / "examples").glob("*.jpg")).read_bytes()
TYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


def zeros(client, model: str) -> list[tritonclient.grpc.InferInput]:
    """Every input of a model that it needs, one row of zeros each."""
    tensors = []
    for given in client.get_model_config(model).config.input:
        if given.optional:
            continue
        dtype = TYPES[model_config_pb2.DataType.Name(given.data_type)]
        tensor = tritonclient.grpc.InferInput(
            given.name, [1, *given.dims], np_to_triton_dtype(dtype)
        )
        tensors.append(tensor.set_data_from_numpy(np.zeros((1, *given.dims), dtype)))
    return tensors


class Burst:
    """Requests that are sent at once.

    Attributes:
        calls: what each of them can be cancelled by.
        errors: of each answer, in the order in which they come; None for a result.
    """

    def __init__(self, client, model: str, tensors: list, parameters: list[dict]):
        self._left = threading.Semaphore(0)
        self.errors: list = []
        self.calls = [
            client.async_infer(model, tensors, self._answered, parameters=one) for one in parameters
        ]

    def _answered(self, result, error) -> None:
        self.errors.append(error)
        self._left.release()

    def refusals(self) -> list[str]:
        """Wait for all answers; what was said to those that got no result."""
        for _ in self.calls:
            assert self._left.acquire(timeout=120)
        return [error.message() for error in self.errors if error]


def test_a_request_past_its_deadline_is_refused_before_any_work(server, client):
    before = images_computed(server, "mplug_owl2")
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*step preprocess") as e:
        infer(client, IMAGE, deadline_unix_us=1)
    assert e.value.status() == "StatusCode.CANCELLED"
    assert images_computed(server, "mplug_owl2") == before


@pytest.mark.parametrize("model", ["mplug_owl2", "maniqa_moe"])
def test_every_step_refuses(client, model):
    with pytest.raises(InferenceServerException, match=rf"DEADLINE_EXCEEDED.*step {model}"):
        client.infer(model, zeros(client, model), parameters={"deadline_unix_us": 1})


def test_requests_whose_caller_is_gone_are_not_computed(server, client):
    before, views = images_computed(server, "mplug_owl2"), zeros(client, "mplug_owl2")
    burst = Burst(client, "mplug_owl2", views, [{}] * 600)
    for call in burst.calls:
        call.cancel()
    client.infer("mplug_owl2", views)  # behind all of them
    burst.refusals()
    assert images_computed(server, "mplug_owl2") - before < 600


def test_a_late_request_does_not_disturb_its_batch(client):
    in_time = time.time_ns() // 1000 + 60_000_000
    deadlines = [{"deadline_unix_us": 1 if n % 3 == 0 else in_time} for n in range(24)]
    refused = Burst(client, "mplug_owl2", zeros(client, "mplug_owl2"), deadlines).refusals()
    assert len(refused) == 8
    assert all("DEADLINE_EXCEEDED" in message for message in refused)


def test_what_cannot_be_done_in_time_is_not_done(client):
    """Of 600 images in the queue that are wanted within half a second, most are refused."""
    deadline = {"deadline_unix_us": time.time_ns() // 1000 + 500_000}
    refused = Burst(client, "ma_agiqa", [image_tensor(IMAGE)], [deadline] * 600).refusals()
    assert len(refused) > 300
    foreseen = "are left until the deadline"  # the first step saw that there would be no time
    assert all("DEADLINE_EXCEEDED" in said or foreseen in said for said in refused), set(refused)


def test_deadlines_of_many_are_their_own(server):
    """A burst that is far too large for its time ends in time, and the server continues."""
    with Scorer(server.grpc_url) as scorer:
        scorer.model()
        scores = scorer.score_many([picture(1)] * 300, max_in_flight=150, timeout_s=0.4)
        late = [score for score in scores if score.error]
        assert len(late) > 50
        # The server is not available to those who would have to wait longer than they can.
        assert {type(score.error) for score in late} <= {
            DeadlineExceededError,
            ServerUnavailableError,
        }
        assert scorer.score(IMAGE, timeout_s=60).error is None
