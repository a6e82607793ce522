"""Contract of the pytorch backend with the libtorch backend, through the real server."""

import concurrent.futures

import numpy as np
import pytest
import torch
import tritonclient.grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from embedded.errors import ServerFailedError
from embedded.server import EmbeddedTriton
from support.triton_requests import statistics
from support.waiting import wait_until


class Affine(torch.nn.Module):
    """10 x + y and x - y: swapped arguments or outputs show."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 10 * x + y, x - y


class Bytes(torch.nn.Module):
    """uint8 and bool in; float, int64 and bool out; one Tensor is not a tuple."""

    def forward(self, pixels: torch.Tensor, flag: torch.Tensor):
        return pixels.float() / 2, pixels.to(torch.int64) + 1, ~flag


class Single(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Sum(torch.nn.Module):
    """Fails where the values sum to zero, and forgets the batch where they are negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = float(x.sum())
        if total == 0:
            raise RuntimeError("details in /a/secret/path")
        if total < 0:
            return x[:1].repeat(1, 2)
        return x


class PlusInferenceMode(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (1.0 if torch.is_inference(x + 1) else 0.0)


class ListOfTensors(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x]


class Dictionary(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


def tensors(kind: str, **data_types: str) -> str:
    parts = [f'{{ name: "{n}" data_type: {t} dims: [ 2 ] }}' for n, t in data_types.items()]
    return f"{kind} [ {', '.join(parts)} ]\n"


def floats(kind: str, *names: str) -> str:
    return tensors(kind, **dict.fromkeys(names, "TYPE_FP32"))


BATCH = "max_batch_size: 8\n"
QUEUE = "dynamic_batching { max_queue_delay_microseconds: 400000 }\n"
ONE = BATCH + floats("input", "x") + floats("output", "out")
TWO_OUT = floats("output", "sum", "difference")
PARAMETERS = "".join(
    f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
    for key, value in (
        ("INTRA_OP_THREAD_COUNT", "1"),
        ("INTER_OP_THREAD_COUNT", "1"),
        ("INFERENCE_MODE", "Off"),
        ("DISABLE_OPTIMIZED_EXECUTION", "true"),
        ("ENABLE_JIT_PROFILING", "0"),
    )
)
GOOD = {
    "by_name": (Affine(), BATCH + floats("input", "y", "x") + TWO_OUT),
    "in_order": (Affine(), BATCH + QUEUE + floats("input", "second", "y") + TWO_OUT),
    "indexed": (
        Bytes(),
        BATCH
        + tensors("input", FLAG__1="TYPE_BOOL", PIXELS__0="TYPE_UINT8")
        + tensors("output", INVERSE__2="TYPE_BOOL", HALF__0="TYPE_FP32", NEXT__1="TYPE_INT64"),
    ),
    "unbatched": (
        PlusInferenceMode(),
        "max_batch_size: 0\n" + floats("input", "x") + floats("output", "o"),
    ),
    "failing": (Sum(), ONE),
    "switches": (PlusInferenceMode(), ONE + PARAMETERS),
}
BAD = {
    "bad_data_type": (
        Single(),
        BATCH + tensors("input", x="TYPE_UINT16") + floats("output", "out"),
        "unsupported datatype TYPE_UINT16 for input 'x'",
    ),
    "bad_output_count": (
        Single(),
        BATCH + floats("input", "x") + floats("output", "one", "two"),
        "this model has 1 outputs",
    ),
    "bad_list": (ListOfTensors(), ONE, "expected a Tensor or a tuple of Tensors"),
    "bad_dictionary": (Dictionary(), ONE, "expected a Tensor or a tuple of Tensors"),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory, torchscript_model):
    folder = tmp_path_factory.mktemp("contract")
    for name, (module, config) in GOOD.items():
        torchscript_model(folder / "models", name, module, config)
    with (
        EmbeddedTriton(
            folder / "models", free_ports=True, self_test=False, log_file=folder / "log"
        ) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        client.log_file = server.log_file
        yield client


def infer(client, model: str, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    inputs = []
    for name, array in arrays.items():
        tensor = tritonclient.grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    result = client.infer(model, inputs, client_timeout=60)
    return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


X = np.array([[1, 2]], np.float32)
Y = np.array([[3, 5]], np.float32)
SUM, DIFFERENCE = 10 * X + Y, X - Y


def test_inputs_by_the_names_of_the_arguments(client):
    answer = infer(client, "by_name", y=Y, x=X)
    np.testing.assert_array_equal(answer["sum"], SUM)
    np.testing.assert_array_equal(answer["difference"], DIFFERENCE)


def test_indices_count_and_not_the_order_of_the_configuration(client):
    pixels = np.array([[7, 255]], np.uint8)
    answer = infer(client, "indexed", FLAG__1=np.array([[True, False]]), PIXELS__0=pixels)
    np.testing.assert_array_equal(answer["HALF__0"], np.array([[3.5, 127.5]], np.float32))
    np.testing.assert_array_equal(answer["NEXT__1"], np.array([[8, 256]], np.int64))
    np.testing.assert_array_equal(answer["INVERSE__2"], [[False, True]])


def test_other_names_fall_back_to_the_order_of_the_configuration(client):
    # "y" is the second argument's name, but "second" is none, so the order decides for both.
    answer = infer(client, "in_order", y=Y, second=X)
    np.testing.assert_array_equal(answer["sum"], SUM)


def test_a_model_without_batches(client):
    answer = infer(client, "unbatched", x=np.array([1, 2], np.float32))
    np.testing.assert_array_equal(answer["o"], np.array([2, 3], np.float32))


def test_requests_of_different_sizes_share_a_batch_and_get_their_own_rows(client):
    arrays = [np.full((size, 2), size, np.float32) for size in (1, 3, 2)]
    before = statistics(client, "in_order")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda a: infer(client, "in_order", second=a, y=-a), arrays))
    for array, answer in zip(arrays, answers, strict=True):
        np.testing.assert_array_equal(answer["sum"], 9 * array)
        np.testing.assert_array_equal(answer["difference"], 2 * array)
    expected = before.inference_count + 6
    after = statistics(client, "in_order", lambda found: found.inference_count >= expected)
    assert after.inference_count == expected
    assert after.execution_count - before.execution_count < 3


def test_a_failing_model_keeps_its_details_in_the_log(client):
    with pytest.raises(InferenceServerException) as caught:
        infer(client, "failing", x=0 * X)
    assert caught.value.status() == "StatusCode.INTERNAL"
    assert "Model 'failing' failed on this batch" in caught.value.message()
    assert "secret" not in caught.value.message()
    # Triton writes its log after it has answered.
    wait_until(lambda: "details in /a/secret/path" in client.log_file.read_text())
    np.testing.assert_array_equal(infer(client, "failing", x=X)["out"], X)


def test_an_output_of_another_shape_is_an_error(client):
    with pytest.raises(InferenceServerException, match=r"expects shape \[1, 2\] for output 'out'"):
        infer(client, "failing", x=-X)


def test_parameters_of_the_libtorch_backend(client):
    # INFERENCE_MODE is on without a parameter (see "unbatched"), here it is off.
    np.testing.assert_array_equal(infer(client, "switches", x=X)["out"], X)
    for line in ("INTER_OP_THREAD_COUNT is 1", "INTRA_OP_THREAD_COUNT is 1"):
        assert f"model 'switches': {line}" in client.log_file.read_text()


@pytest.mark.slow
def test_configurations_that_libtorch_refuses_do_not_load(tmp_path, torchscript_model):
    for name, (module, config, _) in BAD.items():
        torchscript_model(tmp_path / "models", name, module, config)
    torchscript_model(tmp_path / "models", "bad_file", Single(), ONE)
    (tmp_path / "models" / "bad_file" / "1" / "model.pt").write_bytes(b"not a zip file")
    server = EmbeddedTriton(
        tmp_path / "models", free_ports=True, self_test=False, log_file=tmp_path / "log"
    )
    with pytest.raises(ServerFailedError) as caught:
        server.start()
    message = str(caught.value)
    reasons = {name: reason for name, (_, _, reason) in BAD.items()}
    for name, reason in {**reasons, "bad_file": "model.pt is not TorchScript"}.items():
        sentence = message.partition(f"Model {name} failed to load: ")[2].partition("Model bad")[0]
        assert reason in sentence
    assert str(tmp_path / "log") in message
