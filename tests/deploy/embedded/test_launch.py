"""Which models a server loads: all but the answering one, which is loaded only to explain."""

from pathlib import Path

import pytest

from embedded import launch
from embedded.errors import RepositoryError
from embedded.launch import Ports, metrics_address, models_to_load
from embedded.server import EmbeddedTriton
from ma_agiqa.serving.admission import METRICS_URL_VARIABLE

SHIPPED = Path(__file__).resolve().parents[3] / "model_repository"
ALWAYS = ["ma_agiqa", "ma_agiqa_v1", "maniqa_moe", "meter", "mplug_owl2", "preprocess"]
ANSWERING = "mplug_owl2_answer"


def test_the_answering_model_is_loaded_only_to_explain():
    assert models_to_load(SHIPPED, explain=False) == ALWAYS
    assert models_to_load(SHIPPED, explain=True) == sorted([*ALWAYS, ANSWERING])


def test_to_explain_the_answering_model_has_to_be_there(repository):
    with pytest.raises(RepositoryError, match=f"no {ANSWERING}/config.pbtxt, which --explain"):
        EmbeddedTriton(repository, free_ports=True, explain=True).start()


def test_the_first_step_is_told_where_the_metrics_are():
    address = metrics_address(Ports(grpc=1, http=2, metrics=3))
    assert address == {METRICS_URL_VARIABLE: "http://127.0.0.1:3/metrics"}


def test_a_repository_for_gpus_is_refused_without_one(repository, monkeypatch):
    config = repository / "maniqa_moe" / "config.pbtxt"
    config.write_text(f"{config.read_text()}instance_group [ {{ kind: KIND_GPU }} ]\n")
    monkeypatch.setattr(launch, "_has_gpu", lambda: True)
    launch.check_repository(repository, complete=True)
    monkeypatch.undo()
    if launch._has_gpu():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(RepositoryError, match=r"for a GPU \(maniqa_moe\), .* --device cpu"):
        EmbeddedTriton(repository, free_ports=True).start()
