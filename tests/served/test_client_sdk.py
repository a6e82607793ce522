"""The SDK against the real server: every kind of input, deadlines, headers, the wrong model."""

import asyncio
import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc
from PIL import Image
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from embedded.server import EmbeddedTriton
from ma_agiqa_client import (
    AsyncScorer,
    DeadlineExceededError,
    InvalidImageError,
    Scorer,
    ServerUnavailableError,
    WrongModelError,
)

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.jpg"))
BATCH_TOLERANCE = 1e-3  # of MOS: an image in a batch against the same image alone, float32


@pytest.fixture
def scorer(server):
    with Scorer(server.grpc_url) as scorer:
        yield scorer


@pytest.fixture
def raw(server):
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


def picture(seed: int, height: int = 90, width: int = 130) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)


def forms(pixels: np.ndarray, folder: Path) -> dict[str, object]:
    """The same pixels in every form that is taken."""
    chw = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    path = folder / "image.png"
    Image.fromarray(pixels).save(path)
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "file object": io.BytesIO(path.read_bytes()),
        "Pillow": Image.fromarray(pixels),
        "HWC uint8": pixels,
        "CHW uint8": chw,
        "HWC float32": (pixels / 255).astype(np.float32),
        "CHW float16": (chw / 255).astype(np.float16),
        "not contiguous": np.asfortranarray(pixels),
        "tensor uint8": torch.from_numpy(chw),
        "tensor float32": torch.from_numpy(chw).float() / 255,
        "tensor HWC": torch.from_numpy(pixels),
        "tensor with gradient": (torch.from_numpy(chw).double() / 255).requires_grad_(),
    }


def test_every_form_of_an_image_gets_the_same_score(scorer, tmp_path):
    given = forms(picture(1), tmp_path)
    scores = {name: scorer.score(form).mos for name, form in given.items()}
    assert set(scores.values()) == {scores["bytes"]}, scores


def test_batches_score_as_their_images(scorer):
    batch = np.stack([picture(seed) for seed in range(6)])
    alone = [scorer.score(image).mos for image in batch]
    tensor = torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()).float() / 255
    for several in (batch, batch.transpose(0, 3, 1, 2), tensor):
        scores = scorer.score_many(several)
        assert [score.mos for score in scores] == pytest.approx(alone, abs=BATCH_TOLERANCE)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.zeros((8, 8, 3), np.int32), "int32"),
        (np.zeros((8, 8, 4), np.uint8), "shape"),
        (np.full((8, 8, 3), 200.0), "200"),
        (torch.full((3, 8, 8), -1.0), "-1"),
        (torch.zeros(2, 3, 8, 8), "score_many"),
        (np.zeros((3, 9000, 2), np.uint8), "9000|9,000|8192"),
    ],
)
def test_arrays_that_cannot_be_scored_say_why(scorer, array, reason):
    with pytest.raises(InvalidImageError, match=reason):
        scorer.score(array)
    assert [type(score.error) for score in scorer.score_many([array])] == [InvalidImageError]


def test_a_reduced_image_is_another_image(server, scorer):
    large = picture(3, 900, 1200)
    with Scorer(server.grpc_url, max_side=64) as reducing:
        assert reducing.score(large).mos != scorer.score(large).mos
        assert reducing.score(large).mos == reducing.score(Image.fromarray(large)).mos
        small = picture(3, 60, 60)
        assert reducing.score(small).mos == scorer.score(small).mos


def test_the_event_loops_scorer_gives_the_same_numbers(server, scorer):
    async def main():
        async with AsyncScorer(server.grpc_url) as scorer:
            one = await scorer.score(EXAMPLES[0], maps=True)
            many = [score async for score in scorer.score_many([*EXAMPLES, b"bad"])]
            return one, many, await scorer.rank(EXAMPLES, top=3), await scorer.model()

    one, many, ranked, card = asyncio.run(main())
    expected = list(scorer.score_many(EXAMPLES))
    assert card == scorer.model()
    assert one.mos == scorer.score(EXAMPLES[0]).mos
    assert one.patch_score.shape == one.patch_weight.shape == (14, 14)
    assert isinstance(many.pop().error, InvalidImageError)
    close = pytest.approx([score.mos for score in expected], abs=BATCH_TOLERANCE)
    assert [score.mos for score in many] == close
    best = sorted(expected, key=lambda score: -score.mos)[:3]
    assert [score.source for score in ranked] == [score.source for score in best]


def test_the_best_of_n(scorer):
    names = [score.source.stem for score in scorer.rank(EXAMPLES, top=2)]
    assert names == ["village_pristine", "portrait_pristine"]


def test_compressed_requests_score_the_same(server, scorer):
    pixels = picture(5)
    for algorithm in ("gzip", "deflate"):
        with Scorer(server.grpc_url, compression=algorithm) as compressing:
            assert compressing.score(pixels).mos == scorer.score(pixels).mos


def executions(client, model: str) -> int:
    return client.get_inference_statistics(model).model_stats[0].execution_count


def infer(client, model, tensor: tritonclient.grpc.InferInput, deadline_unix_us: int):
    return client.infer(model, [tensor], parameters={"deadline_unix_us": deadline_unix_us})


def image_tensor(data: bytes) -> tritonclient.grpc.InferInput:
    tensor = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]], np.object_))
    return tensor


def computed(client, model: str) -> int:
    """Images that the model has computed."""
    statistics = client.get_inference_statistics(model).model_stats[0].inference_stats
    return statistics.success.count


def zeros(client, model: str) -> list[tritonclient.grpc.InferInput]:
    """Every input of a model, one row of zeros each."""
    types = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}
    tensors = []
    for given in client.get_model_config(model).config.input:
        dtype = types[model_config_pb2.DataType.Name(given.data_type)]
        shape = [1, *given.dims]
        tensor = tritonclient.grpc.InferInput(given.name, shape, np_to_triton_dtype(dtype))
        tensors.append(tensor.set_data_from_numpy(np.zeros(shape, dtype)))
    return tensors


def views_tensor(client) -> tritonclient.grpc.InferInput:
    shape = client.get_model_config("mplug_owl2").config.input[0].dims
    tensor = tritonclient.grpc.InferInput("SEMANTIC_VIEW", [1, *shape], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, *shape), np.uint8))
    return tensor


def test_a_request_past_its_deadline_is_refused_before_any_work(raw):
    before = executions(raw, "mplug_owl2")
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*step preprocess") as e:
        infer(raw, "ma_agiqa", image_tensor(EXAMPLES[0].read_bytes()), 1)
    assert e.value.status() == "StatusCode.CANCELLED"
    assert executions(raw, "mplug_owl2") == before


def test_every_step_refuses(raw):
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*step mplug_owl2"):
        infer(raw, "mplug_owl2", views_tensor(raw), 1)
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*step maniqa_moe"):
        raw.infer("maniqa_moe", zeros(raw, "maniqa_moe"), parameters={"deadline_unix_us": 1})


def test_requests_whose_caller_is_gone_are_not_computed(raw):
    before = computed(raw, "mplug_owl2")
    answers = []
    calls = [
        raw.async_infer(
            "mplug_owl2", [views_tensor(raw)], lambda result, error: answers.append(error)
        )
        for _ in range(300)
    ]
    for call in calls:
        call.cancel()
    raw.infer("mplug_owl2", [views_tensor(raw)])  # behind all of them
    assert len(answers) == 300
    assert computed(raw, "mplug_owl2") - before < 200


def test_a_late_request_does_not_disturb_its_batch(raw):
    in_time = time.time_ns() // 1000 + 60_000_000
    answers = []
    for number in range(24):
        raw.async_infer(
            "mplug_owl2",
            [views_tensor(raw)],
            lambda result, error: answers.append(error),
            parameters={"deadline_unix_us": 1 if number % 3 == 0 else in_time},
        )
    while len(answers) < 24:
        time.sleep(0.01)
    refused = [error for error in answers if error]
    assert len(refused) == 8
    assert all("DEADLINE_EXCEEDED" in error.message() for error in refused)


@pytest.mark.parametrize("behind_s", [3600, -3600])
def test_a_clock_of_this_machine_that_is_wrong_costs_no_score(scorer, monkeypatch, behind_s):
    scorer.model()
    behind_ns = behind_s * 10**9
    now = time.time_ns
    monkeypatch.setattr("ma_agiqa_client._core.plan.time.time_ns", lambda: now() - behind_ns)
    assert scorer.score(EXAMPLES[0], timeout_s=30).error is None
    assert all(score.error is None for score in scorer.score_many(EXAMPLES, timeout_s=30))


def test_work_that_nobody_waits_for_is_not_done(raw):
    """Of 600 images in the queue that are wanted within half a second, most are refused."""
    data = EXAMPLES[0].read_bytes()
    deadline = {"deadline_unix_us": time.time_ns() // 1000 + 500_000}
    answers = []
    for _ in range(600):
        raw.async_infer(
            "ma_agiqa",
            [image_tensor(data)],
            lambda result, error: answers.append(error),
            parameters=deadline,
        )
    while len(answers) < 600:
        time.sleep(0.01)
    refused = [error for error in answers if error]
    assert len(refused) > 300
    foreseen = "are left until the deadline"  # the first step saw that there would be no time
    assert all(
        "DEADLINE_EXCEEDED" in error.message() or foreseen in error.message() for error in refused
    ), {error.message() for error in refused}


def test_deadlines_of_many_are_their_own(scorer):
    """A burst that is far too large for its time ends in time, and the server goes on."""
    scorer.model()
    scores = list(scorer.score_many([picture(1)] * 300, max_in_flight=150, timeout_s=0.4))
    late = [score for score in scores if score.error]
    assert len(late) > 50
    # The server is not available to those who would have to wait longer than they can.
    assert {type(score.error) for score in late} <= {DeadlineExceededError, ServerUnavailableError}
    assert scorer.score(EXAMPLES[0], timeout_s=60).error is None


def test_another_model_behind_the_address(tmp_path):
    folder = tmp_path / "ma_agiqa"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(
        "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    )
    tensors = '[ { name: "X", data_type: TYPE_FP32, dims: [ 1 ] } ]'
    (folder / "config.pbtxt").write_text(f'backend: "python"\ninput {tensors}\noutput {tensors}\n')
    with (
        EmbeddedTriton(tmp_path, free_ports=True, self_test=False) as other,
        Scorer(other.grpc_url) as scorer,
    ):
        with pytest.raises(WrongModelError, match=r"takes \['X'\].*expected IMAGE in and SCORE"):
            scorer.score(EXAMPLES[0])
        assert [type(s.error) for s in scorer.score_many(EXAMPLES[:3])] == [WrongModelError] * 3
        with pytest.raises(WrongModelError):
            scorer.model()


def test_a_server_without_the_model(tmp_path):
    (tmp_path / "something").mkdir()
    with (
        EmbeddedTriton(tmp_path / "something", free_ports=True, self_test=False) as other,
        Scorer(other.grpc_url) as scorer,
    ):
        assert not scorer.health()
        with pytest.raises(WrongModelError, match="does not serve the model `ma_agiqa`"):
            scorer.score(EXAMPLES[0])
