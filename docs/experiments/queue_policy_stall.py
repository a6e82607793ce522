"""Whether this tritonserver's queue policy costs throughput when it rejects.

python docs/experiments/queue_policy_stall.py

Serves chains of two models that only sleep, with and without `max_queue_size`, and keeps far more
requests in flight than a queue may hold. A server whose rejections are cheap answers as many
requests as without the limit.
"""

import queue
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import tritonclient.grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy"))

from embedded.server import EmbeddedTriton

LIMIT = "default_queue_policy { max_queue_size: 64 }"
POLICIES = {"no limit": ("", ""), "first step": (LIMIT, ""), "second step": ("", LIMIT)}
SLEEPER = """
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.004)
        arrays = [pb_utils.get_input_tensor_by_name(r, "X").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", array)]) for array in arrays]
"""
TENSORS = """
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""


@click.command(help=__doc__)
@click.option("--concurrency", default=200, show_default=True, help="Requests in flight.")
@click.option("--seconds", default=3.0, show_default=True, help="For each policy.")
def main(concurrency: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        for number, policies in enumerate(POLICIES.values()):
            _write_chain(repository, f"chain{number}", policies)
        with EmbeddedTriton(repository, free_ports=True, self_test=False) as server:
            client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
            for number, name in enumerate(POLICIES):
                click.echo(f"{name:12s} {_measure(client, f'chain{number}', concurrency, seconds)}")
            client.close()


def _write_chain(repository: Path, name: str, policies: tuple[str, str]) -> None:
    for step, policy in zip("ab", policies, strict=True):
        version = repository / f"{name}{step}" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(SLEEPER)
        batching = f"dynamic_batching {{ max_queue_delay_microseconds: 1000 {policy} }}\n"
        one = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
        text = f'backend: "python"\n{TENSORS}{batching}{one}'
        (version.parent / "config.pbtxt").write_text(text)
    (repository / name / "1").mkdir(parents=True)
    steps = ", ".join(
        f'{{ model_name: "{name}{step}" model_version: -1 input_map {{ key: "X" value: "{given}" }}'
        f' output_map {{ key: "Y" value: "{made}" }} }}'
        for step, given, made in (("a", "X", "BETWEEN"), ("b", "BETWEEN", "Y"))
    )
    text = f'platform: "ensemble"\n{TENSORS}ensemble_scheduling {{ step [ {steps} ] }}\n'
    (repository / name / "config.pbtxt").write_text(text)


def _measure(
    client: tritonclient.grpc.InferenceServerClient, model: str, concurrency: int, seconds: float
) -> str:
    tensor = tritonclient.grpc.InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
    answers: queue.SimpleQueue[tuple[float, bool]] = queue.SimpleQueue()

    def send() -> None:
        start = time.perf_counter()
        client.async_infer(
            model,
            [tensor],
            lambda result, error: answers.put((time.perf_counter() - start, error is None)),
        )

    for _ in range(concurrency):
        send()
    end, left, done, rejected = time.perf_counter() + seconds, concurrency, [], 0
    while left:
        latency_s, scored = answers.get()
        left -= 1
        if scored:
            done.append(latency_s)
        else:
            rejected += 1
        if time.perf_counter() < end:
            send()
            left += 1
    return (
        f"{len(done) / seconds:6.0f} done/s, p99 {np.percentile(done, 99) * 1000:5.0f} ms, "
        f"{rejected / seconds:6.0f} rejected/s"
    )


if __name__ == "__main__":
    main()
