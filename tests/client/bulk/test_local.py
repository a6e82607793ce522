"""Workers that hold the models: the rows of a server, and what they do where one would retry.

Needs the extra `bulk`: `make test-bulk`. `test_bulk.py` has the job whose workers are killed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

NEEDED = "needs the extra bulk: make test-bulk"
pa = pytest.importorskip("pyarrow", reason=NEEDED)
pytest.importorskip("ray", reason=NEEDED)
import pyarrow.parquet as pq  # noqa: E402

from ma_agiqa.images.preparation import OverloadError  # noqa: E402
from ma_agiqa.networks import arithmetic  # noqa: E402
from ma_agiqa.pipeline import ImageScorer  # noqa: E402
from ma_agiqa_client import Scorer  # noqa: E402
from ma_agiqa_client.bulk import _command, _local  # noqa: E402
from ma_agiqa_client.bulk._local import LocalModels, LocalScorer, placed  # noqa: E402
from ma_agiqa_client.bulk._parts import Job  # noqa: E402
from ma_agiqa_client.bulk._store import JobError  # noqa: E402
from ma_agiqa_client.bulk._worker import PartScorer, WorkerSettings  # noqa: E402
from ma_agiqa_client.errors import ServerError, WrongModelError  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "training" / "checkpoints" / "demo")
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
FILES = [file.read_bytes() for file in EXAMPLES[:4]]
MODELS = LocalModels(DEMO, gpus=0, cores=2, batch=5)
# How far the exported scorer may be from the checkpoint's (exporter.formats.TORCHSCRIPT_TOLERANCE
# relative to 5), and for percentiles its effect where the quantiles are densest.
TOLERANCE = {"mos": 5e-4, "normalized": 1e-4, "percentile": 0.05}


@pytest.fixture(scope="module")
def scorer() -> LocalScorer:
    return LocalScorer(MODELS)


def score(images: list, folder: Path, **how: object) -> "pa.Table":
    """The rows that a worker writes."""
    folder.mkdir()
    pq.write_table(pa.table({"image": images}), folder / "images.parquet")
    job = Job.open(
        [str(folder / "images.parquet")],
        str(folder / "scores"),
        columns=["image"],
        rows_per_part=len(images),
        checkpoint_sha256="",
    )
    settings = WorkerSettings(column="image", output=str(folder / "scores"), in_flight=3, **how)
    (part,) = job.parts
    PartScorer(settings)({name: [value] for name, value in vars(part).items()})
    return job.store.table(part.name)


def test_the_rows_are_those_of_a_server(server, tmp_path):
    """Also where there is no score; batches of 5, and three images ahead."""
    (tmp_path / "bad.png").write_bytes(FILES[0][:700])
    (tmp_path / "empty.png").touch()
    bad = [str(tmp_path / "bad.png"), str(tmp_path / "empty.png"), str(tmp_path / "absent")]
    images = [*map(str, EXAMPLES), bad[0], None, *bad, "file:///absent.png", EXAMPLES[0].as_uri()]
    with Scorer(server.grpc_url) as asked:
        sha = asked.model().checkpoint_sha256
    served = score(images, tmp_path / "a", url=(server.grpc_url,), checkpoint_sha256=sha)
    local = score(images, tmp_path / "b", url=(), checkpoint_sha256=sha, models=MODELS)
    assert local.schema == served.schema
    for name in served.column_names:
        here, there = local[name], served[name]
        if pa.types.is_floating(here.type):
            assert here.is_null().equals(there.is_null())
            here, there = (column.drop_null().to_numpy() for column in (here, there))
            np.testing.assert_allclose(here, there, rtol=0, atol=TOLERANCE.get(name, 1e-4))
            assert len(here) == len(EXAMPLES) + 1
        else:
            assert here.to_pylist() == there.to_pylist(), name


def test_a_scorer_that_amplifies_rounding_computes_exactly(monkeypatch):
    monkeypatch.setattr(arithmetic, "ORDER_TOLERANCE", -1.0)
    outcomes = LocalScorer(MODELS).score_many(FILES, max_in_flight=1)
    exact = ImageScorer.load(DEMO)(FILES).score[:, 0].tolist()
    assert [one.mos for one in outcomes] == exact


def test_another_model_than_that_of_the_job_scores_nothing(tmp_path):
    with pytest.raises(WrongModelError, match="differs between machines"):
        score([FILES[0]], tmp_path / "a", url=(), checkpoint_sha256="0" * 64, models=MODELS)
    assert not list((tmp_path / "a" / "scores").glob("part-*"))


def test_an_image_waits_for_large_ones_and_others_stay_in_order(scorer, monkeypatch):
    monkeypatch.setattr(_local, "_BUSY_S", 0.01)
    expected = [one.mos for one in scorer.score_many(FILES, max_in_flight=2)]
    submit, times = scorer._preparation.submit, []

    def submit_later(order):
        views = submit(order)
        if order.data == FILES[2]:
            times.append(order)
            if len(times) < 3:
                views = type(views)()
                views.set_exception(OverloadError("wait"))
        return views

    monkeypatch.setattr(scorer._preparation, "submit", submit_later)
    outcomes = list(scorer.score_many(FILES, max_in_flight=2))
    assert len(times) == 3
    assert [one.mos for one in outcomes] == pytest.approx(expected, abs=1e-5)


def test_what_is_not_the_images_fault_is_an_error_of_that_image_alone(scorer, monkeypatch):
    def fail(order):
        if order.data == FILES[1]:
            raise RuntimeError("a process has ended")
        return prepare(order)

    def spoil(*views):
        output = score_views(*views)
        first = torch.tensor([[torch.nan]])
        return output._replace(score=torch.cat([first, output.score[1:]]))

    prepare, score_views = scorer._preparation._ordinary, scorer._images.score_views
    monkeypatch.setattr(scorer._preparation, "_ordinary", fail)
    monkeypatch.setattr(scorer._images, "score_views", spoil)
    errors = [one.error for one in scorer.score_many(FILES, max_in_flight=4)]
    assert [type(error) for error in errors] == [ServerError, ServerError, type(None), type(None)]
    assert "not finite" in str(errors[0])
    assert "a process has ended" in str(errors[1])


def test_a_batch_that_does_not_fit_names_the_option(scorer, monkeypatch):
    def out_of_memory(*views):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(scorer._images, "score_views", out_of_memory)
    with pytest.raises(JobError, match="Give a --batch below 5"):
        list(scorer.score_many(FILES, max_in_flight=1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"local": "absent"}, "There is no checkpoint at absent"),
        ({"dtype": "float7"}, "float7"),
        ({"embedder": "absent"}, "absent"),
    ],
)
def test_models_that_cannot_be_loaded_end_the_job(change, said):
    given = {"local": DEMO, "gpus": 0, "cores": 1} | change
    with pytest.raises(JobError, match=said):
        LocalScorer(LocalModels(**given))


HEAD, GPUS, CPU = {"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "asked", "workers", "expected"),
    [
        ([CPU], {}, None, (1, 0, 8)),
        ([CPU, {"CPU": 6.0}], {}, None, (2, 0, 6)),
        ([CPU], {}, 3, (3, 0, 8)),
        ([CPU], {"cores": 3}, None, (1, 0, 3)),
        ([HEAD, GPUS], {}, None, (4, 1, 8)),
        ([HEAD, GPUS, GPUS], {"gpus": 2}, None, (4, 2, 16)),
        ([GPUS], {"gpus": 0.5}, None, (8, 0.5, 4)),
        ([GPUS], {"gpus": 1, "cores": 16}, None, (2, 1, 16)),
        ([GPUS], {"gpus": 0}, None, (1, 0, 32)),
        ([{"CPU": 0.0}, GPUS], {}, 2, (2, 1, 8)),
        ([HEAD], {"gpus": 1}, None, None),
        ([GPUS], {"gpus": 8}, None, None),
        ([CPU], {"cores": 9}, None, None),
    ],
)
def test_every_worker_fits_a_node(nodes, asked, workers, expected):
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 99.0}}
    if expected is None:
        with pytest.raises(JobError, match="No node of the cluster has room"):
            placed(LocalModels("x", **asked), workers, [*alive, dead])
        return
    models, count = placed(LocalModels("x", **asked), workers, [*alive, dead])
    assert (count, models.gpus, models.cores) == expected


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--batch", "8"], 2, "--batch is for models that workers load"),
        (["--local", DEMO, "--url", "x:1"], 2, "Give either servers"),
        (["--local", "absent"], 4, "There is no checkpoint at absent"),
        ([], 2, "--local CHECKPOINT"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, words, status, said):
    pq.write_table(pa.table({"image": ["x"]}), tmp_path / "a.parquet")
    line = [str(tmp_path / "a.parquet"), "--output", str(tmp_path / "scores"), *words]
    done = CliRunner().invoke(_command.main, line)
    assert done.exit_code == status, done.output
    assert said in done.stderr
    assert not (tmp_path / "scores").exists()


def test_the_workers_of_a_local_job_get_its_models(tmp_path, monkeypatch):
    """Without Ray; a server's address in the environment does not matter."""
    given = []

    def score_here(job, settings, *rest):
        given.append((settings, rest[0]))
        for part in job.parts:
            PartScorer(settings)({name: [value] for name, value in vars(part).items()})

    monkeypatch.setattr(_command, "_run", score_here)
    monkeypatch.setenv("MA_AGIQA_URL", "localhost:1")
    monkeypatch.chdir(ROOT)
    pq.write_table(pa.table({"image": FILES}), tmp_path / "a.parquet")
    line = [str(tmp_path / "a.parquet"), "--output", str(tmp_path / "scores"), "--batch", "2"]
    done = CliRunner().invoke(_command.main, [*line, "--local", "training/checkpoints/demo"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scored"] == len(FILES)
    ((settings, workers),) = given
    assert settings.models == LocalModels(DEMO, batch=2)  # a path that holds in other folders
    assert workers is None
