"""The `config.pbtxt` files of the served models, from one description of their tensors."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ma_agiqa.tensors import MAX_BATCH_SIZE, TensorSpec

__all__ = ["WARMUP_IMAGE", "DeploymentSettings", "repository_configs"]

WARMUP_IMAGE = "warmup_image"
"""Name of the file in preprocess/warmup/ that holds one image as a serialized BYTES tensor."""


@dataclass(frozen=True)
class DeploymentSettings:
    """How the models run, beside what they compute.

    Attributes:
        embedder: source of mPLUG-Owl2, as `ma_agiqa.lmm.sources.build_embedder` takes it.
        dtype: what mPLUG-Owl2's weights are kept in, of `ma_agiqa.lmm.sources.DTYPES`.
        gpu: run mPLUG-Owl2 and the scorer on the GPU, one instance on each.
        queue_delay_us: how long a batch waits for company, in microseconds.
        warmup_batches: batch sizes run before a model reports ready.
        max_wait_ms: requests are refused when this many milliseconds of work wait for the
            networks, see `ma_agiqa.serving.admission`.
    """

    embedder: str
    dtype: str
    gpu: bool
    queue_delay_us: int
    warmup_batches: tuple[int, ...]
    max_wait_ms: int = 3000


def repository_configs(
    specs: Mapping[str, TensorSpec],
    card: Mapping[str, str],
    settings: DeploymentSettings,
    version: int = 1,
) -> dict[str, str]:
    """Write the configurations.

    Args:
        specs: every tensor, from `ma_agiqa.tensors.tensor_specs`.
        card: the model card as strings, which become parameters of the ensemble.
        settings: how the models run.
        version: of the scorer; the one that is served, and that the ensemble ends in.

    Returns:
        Text of config.pbtxt by model name, each accepted by Triton's own schema.
    """
    kind = "KIND_GPU" if settings.gpu else "KIND_CPU"
    texts = {
        "ma_agiqa": _ensemble(specs, card, version),
        "preprocess": _composing(
            "preprocess",
            'backend: "python"',
            [specs["IMAGE"]],
            [specs["QUALITY_VIEW"], specs["SEMANTIC_VIEW"]],
            # One process; it decodes on as many threads as there are cores.
            instances="instance_group [ { kind: KIND_CPU, count: 1 } ]",
            settings=settings,
            # Here, not as a max_queue_size, whose rejections stall the batches of Triton 2.51.
            parameters={"max_wait_ms": str(settings.max_wait_ms)},
        ),
        "mplug_owl2": _composing(
            "mplug_owl2",
            'backend: "python"',
            # PROMPT asks for the next token of an answer instead of the embeddings.
            [specs["SEMANTIC_VIEW"], specs["PROMPT"]],
            [specs["SEMANTIC"], specs["COHERENCE"], specs["NEXT_TOKEN"]],
            # Each instance holds its own weights: 16.4 GB at the paper's size in 16 bits.
            instances=f"instance_group [ {{ kind: {kind}, count: 1 }} ]",
            settings=settings,
            parameters={"weights": settings.embedder, "dtype": settings.dtype},
        ),
        "maniqa_moe": _composing(
            "maniqa_moe",
            'platform: "pytorch_libtorch"',
            [_numbered(specs[n], i) for i, n in enumerate(("QUALITY_VIEW", *_EMBEDDINGS))],
            [_numbered(specs[n], i) for i, n in enumerate(_RESULTS)],
            instances=f"instance_group [ {{ kind: {kind}, count: 1 }} ]",
            settings=settings,
            # The profiling executor compiles anew at every batch size it meets, for seconds.
            parameters={"DISABLE_OPTIMIZED_EXECUTION": "true"},
        )
        + "# The versions that are kept; each has an ensemble of its own. Not the newest: traffic\n"
        + "# sees a version when it has been checked, not when its files are there.\n"
        + f"version_policy {{ specific {{ versions: [ {version} ] }} }}\n",
        "meter": _metering(specs, card),
        "mplug_owl2_answer": _answering(specs, settings),
    }
    for text in texts.values():
        text_format.Parse(text, model_config_pb2.ModelConfig())
    return texts


_EMBEDDINGS = ("SEMANTIC", "COHERENCE")
_RESULTS = ("SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT")
_COUNTED = ("SCORE", "GATE")


def _numbered(spec: TensorSpec, index: int) -> TensorSpec:
    """Name a tensor by libtorch's convention NAME__i."""
    return TensorSpec(f"{spec.name}__{index}", spec.data_type, spec.shape)


def _composing(
    name: str,
    runner: str,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    instances: str,
    settings: DeploymentSettings,
    parameters: Mapping[str, str] | None = None,
) -> str:
    warmups = [_warmup(batch, inputs) for batch in settings.warmup_batches]
    # On CPU larger batches are no faster per image, and while one runs the other steps wait.
    preferred = "" if settings.gpu else "preferred_batch_size: [ 8 ], "
    delay = f"max_queue_delay_microseconds: {settings.queue_delay_us}"
    parts = [
        f"name: {_quoted(name)}",
        runner,
        f"max_batch_size: {MAX_BATCH_SIZE}",
        _tensors("input", inputs),
        _tensors("output", outputs),
        instances,
        "# A batch starts when the model is free; an idle model waits this long for more images.",
        f"dynamic_batching {{ {preferred}{delay} }}",
        *(_parameter(key, value) for key, value in (parameters or {}).items()),
        *warmups,
    ]
    return "\n".join(parts) + "\n"


def _metering(specs: Mapping[str, TensorSpec], card: Mapping[str, str]) -> str:
    counted = [specs[name] for name in _COUNTED]
    inputs = [TensorSpec(_uncounted(s.name), s.data_type, s.shape) for s in counted]
    parts = [
        'name: "meter"',
        'backend: "python"',
        f"max_batch_size: {MAX_BATCH_SIZE}",
        _tensors("input", inputs),
        _tensors("output", counted),
        "instance_group [ { kind: KIND_CPU, count: 1 } ]",
        "# What waits while the model is busy goes together; nothing waits for company.",
        "dynamic_batching { }",
        # Without them (no card) drift is not measured.
        _parameter("mos_quantiles", card.get("mos_quantiles", "[]")),
    ]
    return "\n".join(parts) + "\n"


def _uncounted(name: str) -> str:
    """Name of a result between the scorer and the step that counts it."""
    return f"UNCOUNTED_{name}"


def _answering(specs: Mapping[str, TensorSpec], settings: DeploymentSettings) -> str:
    parts = [
        'name: "mplug_owl2_answer"',
        'backend: "python"',
        "max_batch_size: 0",
        "# Many responses to a request: the pieces of the answer, as they come.",
        "model_transaction_policy { decoupled: true }",
        _tensors("input", [specs["IMAGE"], specs["QUESTION"]]),
        _tensors("output", [specs["TEXT"]]),
        "# Each instance answers one question at a time. They hold no weights: mplug_owl2 does.",
        "instance_group [ { kind: KIND_CPU, count: 2 } ]",
        _parameter("weights", settings.embedder),
        _parameter("view_size", str(specs["SEMANTIC_VIEW"].shape[0])),
    ]
    return "\n".join(parts) + "\n"


def _ensemble(specs: Mapping[str, TensorSpec], card: Mapping[str, str], version: int) -> str:
    embeddings = {name: name for name in _EMBEDDINGS}
    views = {name: name for name in ("QUALITY_VIEW", "SEMANTIC_VIEW")}
    numbered_in = {f"{n}__{i}": n for i, n in enumerate(("QUALITY_VIEW", *_EMBEDDINGS))}
    uncounted = {name: _uncounted(name) for name in _COUNTED}
    numbered_out = {f"{n}__{i}": uncounted.get(n, n) for i, n in enumerate(_RESULTS)}
    steps = (
        _step("preprocess", {"IMAGE": "IMAGE"}, views),
        _step("mplug_owl2", {"SEMANTIC_VIEW": "SEMANTIC_VIEW"}, embeddings),
        _step("maniqa_moe", numbered_in, numbered_out, version),
        _step("meter", {n: n for n in uncounted.values()}, {n: n for n in _COUNTED}),
    )
    parts = [
        'name: "ma_agiqa"',
        'platform: "ensemble"',
        f"max_batch_size: {MAX_BATCH_SIZE}",
        _tensors("input", [specs["IMAGE"]]),
        _tensors("output", [specs[name] for name in _RESULTS]),
        "# A chain: no two steps may run side by side, or a rejected one can freeze the other.",
        "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}",
        "# The model card.",
        *(_parameter(key, value) for key, value in card.items()),
    ]
    return "\n".join(parts) + "\n"


def _step(
    model: str, inputs: Mapping[str, str], outputs: Mapping[str, str], version: int = -1
) -> str:
    lines = [f"    {{\n      model_name: {_quoted(model)}\n      model_version: {version}"]
    for word, names in (("input_map", inputs), ("output_map", outputs)):
        lines += [
            f"      {word} {{ key: {_quoted(key)}, value: {_quoted(value)} }}"
            for key, value in names.items()
        ]
    return "\n".join(lines) + "\n    }"


def _tensors(word: str, specs: Iterable[TensorSpec]) -> str:
    rows = [
        f"  {{ name: {_quoted(spec.name)}, data_type: {spec.data_type}, "
        f"dims: [ {', '.join(map(str, spec.shape))} ]{', optional: true' * spec.optional} }}"
        for spec in specs
    ]
    return f"{word} [\n" + ",\n".join(rows) + "\n]"


def _warmup(batch: int, inputs: Iterable[TensorSpec]) -> str:
    values = []
    for spec in (spec for spec in inputs if not spec.optional):
        source = "random_data: true"
        if spec.data_type == "TYPE_STRING":
            source = f"input_data_file: {_quoted(WARMUP_IMAGE)}"
        values.append(
            f"  inputs {{ key: {_quoted(spec.name)}, value: {{ data_type: {spec.data_type}, "
            f"dims: [ {', '.join(map(str, spec.shape))} ], {source} }} }}"
        )
    lines = "\n".join(values)
    return f'model_warmup {{\n  name: "batch of {batch}"\n  batch_size: {batch}\n{lines}\n}}'


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)}, value: {{ string_value: {_quoted(value)} }} }}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
