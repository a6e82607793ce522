"""Bulk jobs: splitting the input, what a worker writes, and a job whose cluster loses a node.

Needs the extra `bulk`: `make test-bulk`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from ma_agiqa_client import Scorer
from ma_agiqa_client.bulk import _command
from ma_agiqa_client.errors import ServerUnavailableError

pa = pytest.importorskip("pyarrow", reason="needs the extra bulk: make test-bulk")
ray = pytest.importorskip("ray", reason="needs the extra bulk: make test-bulk")
import pyarrow.parquet as pq  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from ma_agiqa_client.bulk._parts import Job, Part  # noqa: E402
from ma_agiqa_client.bulk._store import JobError  # noqa: E402
from ma_agiqa_client.bulk._worker import PartScorer, WorkerSettings, cause  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "training" / "checkpoints" / "demo")
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
COLUMNS = ("image", "id")
SHA = "0" * 64


def write(path: Path, images: list, row_group_size: int = 7) -> Path:
    table = pa.table({"image": images, "id": list(range(len(images)))})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def open_job(tmp_path: Path, *inputs: object, **changes: object) -> Job:
    options = {"columns": COLUMNS, "rows_per_part": 10, "checkpoint_sha256": SHA} | changes
    return Job.open([str(name) for name in inputs], str(tmp_path / "scores"), **options)


def test_every_row_is_in_exactly_one_part(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    for name, count in {"a": 23, "b": 0, "c": 10}.items():
        write(folder / f"{name}.parquet", [f"{name}{i}" for i in range(count)])
    job = open_job(tmp_path, folder)
    assert [part.rows for part in job.parts] == [10, 10, 3, 10]
    rows = [row for part in job.parts for row in part.read(COLUMNS)["image"].to_pylist()]
    assert rows == [f"a{i}" for i in range(23)] + [f"c{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([{"data": b"x", "name": "a.png"}]), "type struct"),
        (pa.array([{"bytes": [b"x"], "path": "a.png"}]), "type struct"),
        (pa.array([{"bytes": b"x", "path": "a.png"}]), None),
        (pa.array([[b"x"]]), "type list"),
        (pa.array([7]), "type int64"),
        (pa.array([7]).dictionary_encode(), "type int64"),
        (pa.array(["a.png"]), None),
        (pa.array(["a.png"], pa.large_string()).dictionary_encode(), None),
        (pa.array([b"x"], pa.large_binary()), None),
        (pa.array([None]), None),
    ],
)
def test_types_that_hold_no_images_are_refused_before_the_job(tmp_path, values, said):
    pq.write_table(pa.table({"image": values}), tmp_path / "a.parquet")
    if said is None:
        assert len(open_job(tmp_path, tmp_path / "a.parquet", columns=["image"]).parts) == 1
        return
    with pytest.raises(JobError, match=said):
        open_job(tmp_path, tmp_path / "a.parquet", columns=["image"])
    assert not (tmp_path / "scores").exists()


def test_a_job_continues_but_is_not_mixed_with_another(tmp_path):
    file = write(tmp_path / "images.parquet", ["x"] * 25)
    job = open_job(tmp_path, file)
    job.store.write_table(job.parts[1].name, pa.table({"error_kind": ["A"] * 10}))
    assert [part.name for part in open_job(tmp_path, file).pending()] == [
        "part-000000.parquet",
        "part-000002.parquet",
    ]
    with pytest.raises(JobError, match="a job with other rows_per_part"):
        open_job(tmp_path, file, rows_per_part=5)
    with pytest.raises(JobError, match="checkpoint_sha256"):
        open_job(tmp_path, file, checkpoint_sha256="1" * 64)
    write(file, ["x"] * 26)
    with pytest.raises(JobError, match="a job with other files"):
        open_job(tmp_path, file)


@pytest.mark.parametrize(
    ("given", "message"),
    [("absent.parquet", "cannot be read"), (".", "no .parquet files"), ("text", "cannot be read")],
)
def test_inputs_that_cannot_be_read_are_named(tmp_path, given, message):
    (tmp_path / "text").write_text("not Parquet")
    with pytest.raises(JobError, match=message):
        open_job(tmp_path, tmp_path / given)


def test_a_missing_column_is_named(tmp_path):
    file = write(tmp_path / "images.parquet", ["x"])
    with pytest.raises(JobError, match="no column prompt; it has image, id"):
        open_job(tmp_path, file, columns=("image", "prompt"))


@pytest.mark.parametrize("columns", [("mos",), ("image", "error_kind")])
def test_a_column_that_the_scores_would_replace_is_refused(tmp_path, columns):
    pq.write_table(pa.table({name: ["x"] for name in columns}), tmp_path / "a.parquet")
    with pytest.raises(JobError, match=f"The column {columns[-1]} of the input"):
        open_job(tmp_path, tmp_path / "a.parquet", columns=columns)
    assert not (tmp_path / "scores").exists()


def test_rows_that_are_missing_are_noticed(tmp_path):
    job = open_job(tmp_path, write(tmp_path / "images.parquet", ["x"] * 3))
    job.store.write_table(job.parts[0].name, pa.table({"error_kind": ["A"] * 2}))
    with pytest.raises(JobError, match="2 rows for 3 images"):
        job.summary()


def test_the_reason_behind_rays_errors_is_found():
    reason = ServerUnavailableError("gone")
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = ray.exceptions.RayTaskError("f", "trace", reason)
    assert cause(wrapped) is reason
    assert isinstance(cause(RuntimeError("other")), JobError)


def settings(server, output: Path, **changes: object) -> WorkerSettings:
    with Scorer(server.grpc_url) as scorer:
        checksum = scorer.model().checkpoint_sha256
    given = {"column": "image", "output": str(output), "keep": ("id",)} | changes
    return WorkerSettings((server.grpc_url,), checkpoint_sha256=checksum, **given)


def batch(part: Part) -> dict[str, list]:
    return {name: [value] for name, value in vars(part).items()}


def test_a_worker_writes_one_row_per_image_and_says_what_is_bad(server, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    uri = EXAMPLES[1].as_uri()
    bad = [str(tmp_path / "bad.png"), str(tmp_path / "absent"), "file:///absent.png", None]
    images = [str(EXAMPLES[0]), *bad, uri, str(EXAMPLES[0])]
    job = open_job(tmp_path, write(tmp_path / "images.parquet", images))
    worker = PartScorer(settings(server, tmp_path / "scores"))
    assert worker(batch(job.parts[0])) == {"rows": [7]}
    rows = job.store.table(job.parts[0].name)
    assert rows["image"].to_pylist() == images
    assert rows["id"].to_pylist() == list(range(7))
    assert [mos is None for mos in rows["mos"].to_pylist()] == [False, *[True] * 4, False, False]
    with Scorer(server.grpc_url) as scorer:
        score = scorer.score(EXAMPLES[0])
    worth = {"interval_low": score.interval.low, "interval_high": score.interval.high}
    worth |= {name: getattr(score, name) for name in ("deviation", "familiarity")}
    for name, expected in worth.items():
        assert rows[name][0].as_py() == pytest.approx(expected, abs=1e-5)
        assert rows[name].to_pylist()[1:5] == [None] * 4
    assert rows["error_kind"].to_pylist()[1:5] == ["InvalidImageError"] * 4
    assert "absent.png cannot be read" in rows["error"][3].as_py()
    assert "null" in rows["error"][4].as_py()
    assert job.summary()["failed_by_kind"] == {"InvalidImageError": 4}


def test_images_in_the_table_itself(server, tmp_path):
    table = [EXAMPLES[0].read_bytes(), b"no image"]
    job = open_job(tmp_path, write(tmp_path / "images.parquet", table))
    PartScorer(settings(server, tmp_path / "scores"))(batch(job.parts[0]))
    rows = job.store.table(job.parts[0].name)
    assert "image" not in rows.column_names  # bytes are not copied
    assert rows["mos"].null_count == 1


def test_without_a_server_nothing_is_written(tmp_path):
    job = open_job(tmp_path, write(tmp_path / "images.parquet", [str(EXAMPLES[0])]))
    worker = PartScorer(
        WorkerSettings(("127.0.0.1:9",), "image", str(tmp_path / "scores"), SHA, outage_s=0.3)
    )
    with pytest.raises(ServerUnavailableError):
        worker(batch(job.parts[0]))
    assert job.pending() == list(job.parts)


@pytest.fixture
def job_here(scripted, tmp_path, monkeypatch):
    """Runs the command with its workers in this process, without Ray."""

    def score_here(job, settings, *rest):
        for part in job.parts:
            PartScorer(settings)(batch(part))

    def run(*arguments):
        write(tmp_path / "images.parquet", [str(n).encode() for n in range(30)])
        paths = (tmp_path / "images.parquet", "--output", tmp_path / "scores")
        line = [*paths, "--url", scripted.url, "--rows-per-part", 10, *arguments]
        return CliRunner().invoke(_command.main, [str(word) for word in line])

    monkeypatch.setattr(_command, "_run", score_here)
    return run


@pytest.mark.parametrize(("arguments", "version"), [((), 3), (("--model-version", 2), 2)])
def test_a_job_keeps_to_one_version(scripted, job_here, arguments, version):
    """Another version is activated while the first part is scored."""
    scripted.card["version"] = "3"

    def activate(request, context):
        new = {"version": "4", "checkpoint_sha256": "4" * 64}
        scripted.cards["ma_agiqa"] = scripted.card | new

    scripted.check = activate
    done = job_here(*arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scored"] == 30
    assert {request.model_name for request in scripted.requests} == {f"ma_agiqa_v{version}"}
    classes = {request.parameters["traffic_class"].string_param for request in scripted.requests}
    assert classes == {"bulk"}


def test_a_job_ends_when_its_version_is_dropped(scripted, job_here):
    scripted.card["version"] = "3"
    scripted.check = lambda request, context: scripted.cards.update({"ma_agiqa_v3": None})
    done = job_here("--in-flight", 1)
    assert done.exit_code == 3
    assert "'ma_agiqa_v3' is not found" in done.stderr
    assert "start again with another --output" in done.stderr


def test_the_help_names_the_program():
    command = [sys.executable, "-m", "ma_agiqa_client.bulk", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "  python -m ma_agiqa_client.bulk images.parquet --output scores" in shown


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes on this machine: the head, and one that may die."""
    node = {"object_store_memory": 80 * 2**20, "num_cpus": 1}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


def start(cluster: Cluster, images: Path, output: Path, *how: str) -> "subprocess.Popen[str]":
    command = [
        *(sys.executable, ROOT / "client" / "bulk.py", images, "--output", output, *how),
        *("--keep", "id", "--rows-per-part", 20, "--workers", 3, "--ray", cluster.address),
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe, text=True)


def kill_a_worker(cluster: Cluster) -> None:
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    children = [child for raylet in raylets for child in psutil.Process(raylet).children()]
    next(child for child in children if "PartScorer" in " ".join(child.cmdline())).kill()


def wait_for_parts(process: "subprocess.Popen[str]", output: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while len(list(output.glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("models", ["served", "local"])
def test_killed_jobs_workers_and_nodes_leave_one_row_per_image(models, request, cluster, tmp_path):
    how = ["--local", DEMO, "--gpus", "0", "--cores", "1", "--batch", "8"]
    if models == "served":
        how = ["--url", request.getfixturevalue("server").grpc_url, "--in-flight", "4"]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    images = [str(bad if i % 50 == 7 else EXAMPLES[i % len(EXAMPLES)]) for i in range(600)]
    table, output = write(tmp_path / "images.parquet", images, 64), tmp_path / "scores"

    job = start(cluster, table, output, *how)
    wait_for_parts(job, output, 3)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    done = len(list(output.glob("part-*.parquet")))
    assert 3 <= done < 30

    job = start(cluster, table, output, *how)
    wait_for_parts(job, output, done + 2)
    kill_a_worker(cluster)
    wait_for_parts(job, output, done + 4)
    cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
    at_death = len(list(output.glob("part-*.parquet")))
    assert at_death < 30
    printed, said = job.communicate(timeout=600)
    assert job.returncode == 1, said  # some images are bad
    summary = json.loads(printed)
    assert (summary["images"], summary["failed_by_kind"]) == (600, {"InvalidImageError": 12})
    assert "parts were scored earlier" in said

    rows = pq.read_table(sorted(output.glob("part-*.parquet"))).sort_by("id")
    assert rows["id"].to_pylist() == list(range(600))
    assert rows["image"].to_pylist() == images
    assert rows["mos"].null_count == 12
    print(f"driver killed after {done} of 30 parts, node after {at_death}: {summary}")
