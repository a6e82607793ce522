"""The configurations of the served models, as Triton's own messages, with the reasons for them.

    IMAGE --preprocess--> views --mplug_owl2--> embeddings --maniqa_moe--> results --meter--> SCORE

`versions.write_config` turns a message into a `config.pbtxt` file, which has no comments: the
purpose and the source of each value are explained here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from exporter.formats import BACKENDS, INPUTS
from exporter.versions import EMBEDDER, ENSEMBLE, METER, SCORER, serve_versions
from ma_agiqa.tensors import MAX_BATCH_SIZE, TensorSpec

WARMUP_IMAGE = "warmup_image"
"""Name of the file in preprocess/warmup/ that holds one image as a serialized BYTES tensor."""

Specs = Mapping[str, TensorSpec]

_PREPARED = ("QUALITY_VIEW", "SEMANTIC_VIEW", "ARRIVED")
_EMBEDDINGS = ("SEMANTIC", "COHERENCE")
_RESULTS = ("SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT")
_CALIBRATED = (*_RESULTS, "INTERVAL", "FAMILIARITY")
_COUNTED = ("SCORE", "GATE", "FAMILIARITY")


@dataclass(frozen=True)
class DeploymentSettings:
    """How the models run, as opposed to what they compute.

    Attributes:
        embedder: parameters of `mplug_owl2`: "embedder" is the source of mPLUG-Owl2 and "dtype" the
            type that its weights are kept in, as `ma_agiqa.lmm.sources.build_embedder` takes
            them; it refuses to load other "weights_sha256" or "prompts". "alignment" is how it
            compares images with the texts they were made from, see `ma_agiqa.lmm.alignment`.
        gpu: whether mPLUG-Owl2 and the scorer run on the GPU, one instance on each.
        queue_delay_us: how long an idle model waits for more images, in microseconds.
        warmup_batches: batch sizes that are run before a model reports that it is ready.
        max_wait_ms: requests are refused when this many milliseconds of work wait for the
            networks, see `ma_agiqa.serving.admission`.
        scorer_backend: what serves the scorer, a name in `formats.BACKENDS`.
        scorer_instances: processes of the scorer, on each GPU if there is one. Each has the
            weights.
    """

    embedder: Mapping[str, str]
    gpu: bool
    queue_delay_us: int
    warmup_batches: tuple[int, ...]
    max_wait_ms: int = 3000
    scorer_backend: str = "libtorch"
    scorer_instances: int = 1


def repository_configs(
    specs: Specs,
    card: Mapping[str, str],
    settings: DeploymentSettings,
    version: int = 1,
    wide: bool | None = None,
) -> dict[str, ModelConfig]:
    """Configure every served model.

    Args:
        specs: every tensor, from `ma_agiqa.tensors.tensor_specs`.
        card: the model card as strings, which become parameters of the ensemble; with a
            "calibration" clients get INTERVAL and FAMILIARITY.
        settings: how the models run.
        version: version of the scorer that is served, and that the ensemble ends in.
        wide: whether the scorers of the repository give INTERVAL and FAMILIARITY, be it as NaN; by
            default as the card says.

    Returns:
        The configurations by model name.
    """
    if wide is None:
        wide = bool(card.get("calibration"))
    results = _CALIBRATED if wide else _RESULTS
    configs = (
        _ensemble(specs, card, settings, version, results),
        _preprocess(specs, settings),
        _embedder(specs, settings),
        _scorer(specs, settings, version, results),
        _meter(specs, card, results),
        _answer(specs, settings),
    )
    return {config.name: config for config in configs}


def _ensemble(
    specs: Specs,
    card: Mapping[str, str],
    settings: DeploymentSettings,
    version: int,
    results: Sequence[str],
) -> ModelConfig:
    read = {name: name for name in ("SEMANTIC_VIEW", "PROMPT_TEXT")}
    embeddings = {name: name for name in (*_EMBEDDINGS, "ALIGNMENT")}
    views = {name: name for name in _PREPARED}
    given = _CALIBRATED if card.get("calibration") else _RESULTS
    uncounted = {name: _uncounted(name) for name in results if name in _COUNTED}
    backend = BACKENDS[settings.scorer_backend]
    scorer_inputs = dict(zip(backend.inputs, INPUTS, strict=True))
    scorer_outputs = {
        own: uncounted.get(name, name)
        for own, name in zip(backend.outputs(results), results, strict=True)
        if name in given or name in uncounted
    }
    counted = {"ARRIVED": "ARRIVED"} | {name: name for name in uncounted.values()}
    # A chain: if two steps could run in parallel, a rejected one could freeze the other.
    steps = [
        _step("preprocess", {"IMAGE": "IMAGE"}, views),
        _step(EMBEDDER, read, embeddings),
        _step(SCORER, scorer_inputs, scorer_outputs, version),
        _step(METER, counted, {n: n for n in uncounted if n in given}),
    ]
    return _model(
        ENSEMBLE,
        # Without a PROMPT_TEXT the answer has no ALIGNMENT, and Triton leaves it out.
        [specs["IMAGE"], specs["PROMPT_TEXT"]],
        [specs[name] for name in (*given, "ALIGNMENT")],
        parameters=card,
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        ensemble_scheduling={"step": steps},
    )


def _preprocess(specs: Specs, settings: DeploymentSettings) -> ModelConfig:
    inputs = [specs["IMAGE"]]
    return _model(
        "preprocess",
        inputs,
        [specs[name] for name in _PREPARED],
        # Not a max_queue_size: its rejections stall the batches of Triton 2.51.
        parameters={
            "max_wait_ms": str(settings.max_wait_ms),
            # Those of the embedder, the scorer's processes and the meter.
            "running_batches": str(2 + settings.scorer_instances),
        },
        backend="python",
        # One process, which decodes on as many threads as there are cores.
        instance_group=_instances(gpu=False),
        **_batched(inputs, settings),
    )


def _embedder(specs: Specs, settings: DeploymentSettings) -> ModelConfig:
    # PROMPT_TEXT asks for the alignment, too, and PROMPT for the next token of an answer instead.
    # Triton batches requests that have the same inputs.
    inputs = [specs["SEMANTIC_VIEW"], specs["PROMPT_TEXT"], specs["PROMPT"]]
    return _model(
        EMBEDDER,
        inputs,
        [specs[name] for name in (*_EMBEDDINGS, "ALIGNMENT", "NEXT_TOKEN")],
        parameters=settings.embedder,
        backend="python",
        # Each instance holds its own weights: 16.4 GB at the paper's size in 16 bits.
        instance_group=_instances(settings.gpu),
        **_batched(inputs, settings),
    )


def _scorer(
    specs: Specs, settings: DeploymentSettings, version: int, results: Sequence[str]
) -> ModelConfig:
    backend = BACKENDS[settings.scorer_backend]
    inputs = [_renamed(specs[n], own) for n, own in zip(INPUTS, backend.inputs, strict=True)]
    outputs = zip(results, backend.outputs(results), strict=True)
    config = _model(
        SCORER,
        inputs,
        [_renamed(specs[name], own) for name, own in outputs],
        parameters=backend.parameters,
        instance_group=_instances(settings.gpu, settings.scorer_instances),
        **backend.config,
        **_batched(inputs, settings),
    )
    return serve_versions(config, [version])


def _meter(specs: Specs, card: Mapping[str, str], results: Sequence[str]) -> ModelConfig:
    counted = [name for name in results if name in _COUNTED]
    return _model(
        METER,
        # Optional: without it, only the time of a request is not counted.
        [specs["ARRIVED"], *(_renamed(specs[name], _uncounted(name)) for name in counted)],
        [specs[name] for name in counted],
        # Without the quantiles (an empty list) drift is not measured.
        parameters={"mos_quantiles": card.get("mos_quantiles", "[]")},
        backend="python",
        max_batch_size=MAX_BATCH_SIZE,
        instance_group=_instances(gpu=False),
        # What waits while the model is busy is run as one batch; an idle model waits for nothing.
        dynamic_batching={},
    )


def _answer(specs: Specs, settings: DeploymentSettings) -> ModelConfig:
    return _model(
        "mplug_owl2_answer",
        [specs["IMAGE"], specs["QUESTION"]],
        [specs["TEXT"]],
        parameters={
            "embedder": settings.embedder["embedder"],  # for its tokenizer
            "view_size": str(specs["SEMANTIC_VIEW"].shape[0]),
        },
        backend="python",
        max_batch_size=0,
        # Many responses to one request: the pieces of the answer, as they are generated.
        model_transaction_policy={"decoupled": True},
        # Each instance answers one question at a time. They hold no weights: mplug_owl2 does.
        instance_group=_instances(gpu=False, count=2),
    )


def _model(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    parameters: Mapping[str, str],
    **fields: Any,
) -> ModelConfig:
    """Make a configuration; `fields` are those that the models do not have in common."""
    return ModelConfig(
        name=name,
        input=[
            {"name": s.name, "data_type": s.data_type, "dims": s.shape, "optional": s.optional}
            for s in inputs
        ],
        output=[{"name": s.name, "data_type": s.data_type, "dims": s.shape} for s in outputs],
        parameters={key: {"string_value": value} for key, value in parameters.items()},
        **fields,
    )


def _batched(inputs: Sequence[TensorSpec], settings: DeploymentSettings) -> dict[str, Any]:
    """Fields of a model that computes in batches: their size, the queue and the warmup."""
    return {
        "max_batch_size": MAX_BATCH_SIZE,
        # A batch starts when the model is free; an idle model waits this long for more images.
        "dynamic_batching": {
            # On a CPU larger batches are no faster per image, and the other steps wait for them.
            "preferred_batch_size": [] if settings.gpu else [8],
            "max_queue_delay_microseconds": settings.queue_delay_us,
        },
        "model_warmup": [_warmup(inputs, batch) for batch in settings.warmup_batches],
    }


def _warmup(inputs: Sequence[TensorSpec], batch: int) -> dict[str, Any]:
    """One batch that is run before the model is ready; optional inputs are left out."""
    tensors: dict[str, dict[str, Any]] = {}
    for spec in (spec for spec in inputs if not spec.optional):
        tensors[spec.name] = {"data_type": spec.data_type, "dims": spec.shape}
        if spec.data_type == "TYPE_STRING":
            tensors[spec.name]["input_data_file"] = WARMUP_IMAGE
        else:
            tensors[spec.name]["random_data"] = True
    return {"name": f"batch of {batch}", "batch_size": batch, "inputs": tensors}


def _instances(gpu: bool, count: int = 1) -> list[dict[str, Any]]:
    return [{"kind": "KIND_GPU" if gpu else "KIND_CPU", "count": count}]


def _step(
    model: str, inputs: Mapping[str, str], outputs: Mapping[str, str], version: int = -1
) -> dict[str, Any]:
    """One step of the ensemble; version -1 is the newest."""
    return {
        "model_name": model,
        "model_version": version,
        "input_map": inputs,
        "output_map": outputs,
    }


def _renamed(spec: TensorSpec, name: str) -> TensorSpec:
    return TensorSpec(name, spec.data_type, spec.shape)


def _uncounted(name: str) -> str:
    """Name of a result between the scorer and the step that counts it."""
    return f"UNCOUNTED_{name}"
