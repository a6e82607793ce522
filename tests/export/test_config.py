"""The configuration of the served models."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from exporter import versions
from exporter.commands import DEMO_CHECKPOINT
from exporter.config import DeploymentSettings, repository_configs
from exporter.formats import BACKENDS
from exporter.new_version import NewVersion, Source
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity
from ma_agiqa.lmm.alignment import AlignmentMethod
from ma_agiqa.tensors import GATE_ORDER, tensor_specs
from ma_agiqa_client import Alignment
from ma_agiqa_client._core import protocol

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def configs_of_the_paper(
    gpu: bool = False, wide: bool = False, backend: str = "libtorch", **card: str
) -> dict[str, ModelConfig]:
    settings = DeploymentSettings(
        {"embedder": "some/owl"}, gpu, 1000, warmup_batches=(1, 8), scorer_backend=backend
    )
    specs = tensor_specs(448, 4096, 224, 28)
    card = {"name": 'a "b" \\ ü', **card}
    return repository_configs(specs, card, settings, wide=wide or bool(card.get("calibration")))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("card", [{}, {"calibration": "{}"}])
def test_the_ensemble_is_a_chain_whose_tensors_fit(backend, card):
    configs = configs_of_the_paper(backend=backend, **card)
    ensemble = configs["ma_agiqa"]
    known = {tensor.name for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        composing = configs[step.model_name]
        needed = {tensor.name for tensor in composing.input if not tensor.optional}
        asked = {"mplug_owl2": {"PROMPT_TEXT"}, "meter": {"ARRIVED"}}.get(step.model_name, set())
        assert set(step.input_map) == needed | asked
        unused = {tensor.name for tensor in composing.output} - set(step.output_map)
        assert unused == ({"NEXT_TOKEN"} if step.model_name == "mplug_owl2" else set())
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    steps = ensemble.ensemble_scheduling.step
    names = ["preprocess", "mplug_owl2", "maniqa_moe", "meter"]
    assert [step.model_name for step in steps] == names
    for earlier, later in pairwise(steps):
        assert set(earlier.output_map.values()) & set(later.input_map.values())
    given = {tensor.name for tensor in ensemble.output}
    assert ({"INTERVAL", "FAMILIARITY"} <= given) == bool(card)
    assert given <= known


def test_a_version_without_calibration_is_served_next_to_one_that_has_it():
    with_it, without = configs_of_the_paper(calibration="{}"), configs_of_the_paper(wide=True)
    for name in ("maniqa_moe", "meter"):
        assert with_it[name].output == without[name].output
        assert with_it[name].input == without[name].input
    ensemble = without["ma_agiqa"]
    given = {tensor.name for tensor in ensemble.output}
    assert given == {"SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT", "ALIGNMENT"}
    scorer, meter = ensemble.ensemble_scheduling.step[2:]
    assert set(meter.input_map.values()) <= {"ARRIVED", *scorer.output_map.values()}
    assert set(meter.output_map) == {"SCORE", "GATE"}


def test_the_paper_sizes():
    configs = configs_of_the_paper()
    dims = {t.name: list(t.dims) for config in configs.values() for t in config.output}
    assert dims["SEMANTIC_VIEW"] == [448, 448, 3]
    assert dims["SEMANTIC"] == dims["COHERENCE"] == [4096]
    assert dims["PATCH_SCORE__2"] == [28, 28]


@pytest.mark.parametrize("name", ["preprocess", "mplug_owl2", "maniqa_moe"])
def test_composing_models_batch_and_warm_up(name):
    config = configs_of_the_paper()[name]
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
    for warmup in config.model_warmup:
        assert set(warmup.inputs) == {t.name for t in config.input if not t.optional}


def test_the_gpu_runs_the_networks_only():
    kinds = {
        name: config.instance_group[0].Kind.Name(config.instance_group[0].kind)
        for name, config in configs_of_the_paper(gpu=True).items()
        if config.instance_group
    }
    assert kinds == {
        "preprocess": "KIND_CPU",
        "mplug_owl2": "KIND_GPU",
        "maniqa_moe": "KIND_GPU",
        "meter": "KIND_CPU",
        "mplug_owl2_answer": "KIND_CPU",
    }


def test_the_scorer_can_be_served_by_several_backends():
    def served(backend: str) -> tuple[str, ...]:
        config = configs_of_the_paper(backend=backend)["maniqa_moe"]
        return config.platform, config.backend, config.input[2].name, config.output[0].name

    assert served("libtorch") == ("pytorch_libtorch", "", "COHERENCE__2", "SCORE__0")
    assert served("torch_aoti") == ("torch_aoti", "pytorch", "ARGS[2]", "RESULT[0]")
    assert served("onnxruntime") == ("", "onnxruntime", "COHERENCE", "SCORE")


def test_the_answering_model_streams_and_holds_no_weights():
    configs = configs_of_the_paper()
    config = configs["mplug_owl2_answer"]
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert config.parameters["embedder"].string_value == "some/owl"  # for its tokenizer
    assert config.parameters["view_size"].string_value == "448"
    step = {tensor.name: tensor for tensor in configs["mplug_owl2"].input}
    assert step["PROMPT"].optional
    assert not step["SEMANTIC_VIEW"].optional
    steps = configs["ma_agiqa"].ensemble_scheduling.step
    assert config.name not in {step.model_name for step in steps}


def test_the_shipped_configuration_is_what_is_written(tmp_path):
    demo = EmbedderIdentity.of("demo", "float32")
    configs = NewVersion(Source.read(DEMO_CHECKPOINT), tmp_path, demo, gpu=False).configs(1)
    for name in set(configs) - {"ma_agiqa"}:  # whose card holds a time
        versions.write_config(tmp_path, configs[name])
        written, shipped = (root / name / "config.pbtxt" for root in (tmp_path, REPOSITORY))
        assert shipped.read_text(encoding="utf-8") == written.read_text(encoding="utf-8"), name
        assert written.read_text().startswith("# Written by export/to_triton.py; the reasons for")


def test_the_shipped_meter_compares_with_the_data_of_the_card():
    meter, ensemble = (versions.read_config(REPOSITORY, name) for name in ("meter", "ma_agiqa"))
    assert len(json.loads(quantiles(meter))) == 101
    assert quantiles(meter) == quantiles(ensemble)
    assert quantiles(configs_of_the_paper()["meter"]) == "[]"  # of a card without them


def quantiles(config: ModelConfig) -> str:
    return config.parameters["mos_quantiles"].string_value


def test_what_passes_the_meter_keeps_its_type_and_shape():
    meter = configs_of_the_paper()["meter"]
    before = [
        (t.name.removeprefix("UNCOUNTED_"), t.data_type, list(t.dims)) for t in meter.input[1:]
    ]
    assert meter.input[0].name == "ARRIVED"
    assert before == [(t.name, t.data_type, list(t.dims)) for t in meter.output]
    assert meter.dynamic_batching.max_queue_delay_microseconds == 0


def test_parameters_keep_every_character(tmp_path):
    versions.write_config(tmp_path, configs_of_the_paper()["ma_agiqa"])
    assert versions.read_parameters(tmp_path, "ma_agiqa") == {"name": 'a "b" \\ ü'}


def test_the_client_knows_the_same_tensors():
    specs = tensor_specs(448, 4096, 224, 28)
    client = ("IMAGE", "SCORE", "GATE", "PATCH_SCORE", "PATCH_WEIGHT", "INTERVAL", "FAMILIARITY")
    assert [getattr(protocol, name) for name in client] == list(client)
    assert set(client) <= set(specs)
    assert protocol.GATE_ORDER == GATE_ORDER
    assert protocol.MODEL_NAME in configs_of_the_paper()


def test_the_card_says_how_the_embedder_compares_images_with_prompts(tmp_path):
    method = AlignmentMethod('Is it "{prompt}"?', "Yes", "No")
    source, embedder = Source.read(DEMO_CHECKPOINT), EmbedderIdentity.of("demo", "float32")
    configs = NewVersion(source, tmp_path, embedder, gpu=False, alignment=method).configs(1)
    for model in ("ma_agiqa", "mplug_owl2"):
        written = configs[model].parameters["alignment"].string_value
        assert AlignmentMethod.from_json(written) == method
        assert Alignment(**json.loads(written)) == Alignment('Is it "{prompt}"?', "Yes", "No")
