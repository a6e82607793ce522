"""Bulk jobs on an object store: a real S3 server on this machine, which can be made to fail.

Needs the extra `bulk` and moto: `make test-bulk`.
"""

import errno
import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from unittest.mock import Mock
from uuid import uuid4

import pytest

NEEDED = "needs the extra bulk: make test-bulk"
pa = pytest.importorskip("pyarrow", reason=NEEDED)
moto_server = pytest.importorskip("moto.server", reason=NEEDED)
import pyarrow.parquet as pq  # noqa: E402
from pyarrow import fs  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

from ma_agiqa_client import InvalidImageError, Scorer  # noqa: E402
from ma_agiqa_client._wire import images  # noqa: E402
from ma_agiqa_client.bulk import _store  # noqa: E402
from ma_agiqa_client.bulk._parts import Job  # noqa: E402
from ma_agiqa_client.bulk._store import JobError, StoreError  # noqa: E402
from ma_agiqa_client.bulk._tars import read_tar  # noqa: E402
from ma_agiqa_client.bulk._worker import PartScorer, WorkerSettings, _source  # noqa: E402

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*.jpg"))[:4]


class S3:
    """moto's server behind a gate that counts requests and answers some with 503.

    Attributes:
        broken: part of a key -> number of requests that get 503.
        requests: method and kind ("list", "object") of every request.
    """

    def __init__(self) -> None:
        self.bucket = f"bucket-{uuid4().hex}"  # moto keeps everything
        self.broken: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._app = moto_server.DomainDispatcherApplication(moto_server.create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._gate, threaded=True)
        self.options = (
            f"endpoint_override=127.0.0.1:{self._server.server_port}&scheme=http&region=us-east-1"
        )
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def uri(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}?{self.options}"

    def put(self, path: str, data: bytes) -> None:
        filesystem, place = _store.locate(self.uri(path))
        with filesystem.open_output_stream(place) as stream:
            stream.write(data)

    def put_table(self, path: str, columns: dict) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        self.put(path, sink.getvalue())

    def _gate(self, environment: dict, start_response) -> object:
        kind = "list" if "list-type" in environment["QUERY_STRING"] else "object"
        self.requests[f"{environment['REQUEST_METHOD']} {kind}"] += 1
        for part, left in self.broken.items():
            if left and part in environment["PATH_INFO"]:
                self.broken[part] -= 1
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code></Error>"]
        return self._app(environment, start_response)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(_store, "PAUSES_S", (0.01, 0.01))
    running = S3()
    options = f"{running.options}&allow_bucket_creation=true"
    fs.FileSystem.from_uri(f"s3://x/?{options}")[0].create_dir(running.bucket)
    yield running
    running.close()


def score(server, job: Job, **changes: object) -> dict:
    """Score what is pending, as a worker of Ray does."""
    with Scorer(server.grpc_url) as scorer:
        sha = scorer.model().checkpoint_sha256
    given = {"column": "image", "output": job.store.folder, "keep": ()} | changes
    worker = PartScorer(WorkerSettings((server.grpc_url,), checkpoint_sha256=sha, **given))
    for part in job.pending(bool(changes.get("retry_failed"))):
        worker({name: [value] for name, value in vars(part).items()})
    return job.summary()


def open_job(name: str, output: str, *keep: str) -> Job:
    columns = ("image", *keep)
    return Job.open([name], output, columns=columns, rows_per_part=2, checkpoint_sha256="")


def test_a_store_with_an_endpoint_of_its_own_is_used_throughout(s3, stand_in):
    """Folder, tables, images named in them without options, and scores."""
    for n, file in enumerate(EXAMPLES):
        s3.put(f"images/a b {n}#1.jpg", file.read_bytes())
    for name, numbers in {"one": [0, 1, 2], "two x": [3]}.items():
        images = [f"s3://{s3.bucket}/images/a b {n}#1.jpg" for n in numbers]
        s3.put_table(f"tables/{name}.parquet", {"image": images, "id": numbers})
    _store._store.cache_clear()
    s3.requests.clear()
    job = open_job(s3.uri("tables/"), s3.uri("scores"), "id")
    assert [part.rows for part in job.parts] == [2, 1, 1]
    summary = score(stand_in, job, keep=("id",))
    assert (summary["images"], summary["failed_by_kind"]) == (4, {})
    rows = pa.concat_tables(job.store.table(part.name) for part in job.parts)
    assert rows["id"].to_pylist() == [0, 1, 2, 3]
    assert rows["image"].to_pylist()[0] == f"s3://{s3.bucket}/images/a b 0#1.jpg"
    # One file system, and no listing of the output for each part: one of the input and two at most
    # of the output, before the first part and to see what is left.
    assert _store._store.cache_info().misses == 1
    assert s3.requests["GET list"] <= 5, s3.requests


def test_a_fault_that_passes_costs_no_image_and_one_that_stays_is_tried_again_later(s3, stand_in):
    for n, file in enumerate(EXAMPLES):
        s3.put(f"images/{n}.jpg", file.read_bytes())
    images = [f"s3://{s3.bucket}/images/{n}.jpg" for n in (*range(4), "absent")]
    s3.put_table("t.parquet", {"image": images})
    s3.broken.update({"images/1.jpg": 4, "images/2.jpg": 10_000})
    job = open_job(s3.uri("t.parquet"), s3.uri("scores"))
    summary = score(stand_in, job)
    assert summary["failed_by_kind"] == {"StoreError": 1, "InvalidImageError": 1}
    assert job.pending() == []

    before = {part.name: job.store.table(part.name) for part in job.parts}
    assert "--retry-failed" in before["part-000001.parquet"]["error"][0].as_py()
    assert job.pending(retry_failed=True) == [job.parts[1]]
    s3.broken.clear()
    s3.requests.clear()
    summary = score(stand_in, job, retry_failed=True)
    assert summary["failed_by_kind"] == {"InvalidImageError": 1}
    after = job.store.table("part-000001.parquet")
    assert after["image"].to_pylist() == images[2:4]
    assert after["mos"].null_count == 0
    assert after.slice(1).equals(before["part-000001.parquet"].slice(1))  # not sent again
    assert job.pending(retry_failed=True) == []


def test_a_part_of_which_all_images_failed_is_tried_again(s3, stand_in):
    for n, file in enumerate(EXAMPLES[:2]):
        s3.put(f"images/{n}.jpg", file.read_bytes())
    s3.put_table("t.parquet", {"image": [f"s3://{s3.bucket}/images/{n}.jpg" for n in range(2)]})
    s3.broken["images/"] = 10_000
    job = open_job(s3.uri("t.parquet"), s3.uri("scores"))
    assert score(stand_in, job)["failed_by_kind"] == {"StoreError": 2}
    s3.broken.clear()
    assert score(stand_in, job, retry_failed=True)["scored"] == 2


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.EIO, StoreError), (errno.ENOENT, InvalidImageError)]
)
def test_a_disk_that_fails_makes_no_image_bad(monkeypatch, code, expected):
    monkeypatch.setattr(_store, "PAUSES_S", (0.01,))
    monkeypatch.setattr(images, "_open_at_once", Mock(side_effect=OSError(code, "no")))
    with pytest.raises(expected, match=r"cannot be read: no|does not give .*no"):
        _source(str(EXAMPLES[0]))


def test_folders_and_scores_are_no_input(tmp_path):
    (tmp_path / "a.parquet").mkdir()  # as Spark writes tables
    for name in ("a.parquet/part-0.parquet", "b.parquet"):
        pq.write_table(pa.table({"image": ["x.png"]}), tmp_path / name)
    first = open_job(str(tmp_path), str(tmp_path / "scores"))
    first.store.write_table("part-000000.parquet", pa.table({"image": ["x.png"]}))
    again = open_job(str(tmp_path), str(tmp_path / "scores"))
    names = [str(Path(part.file).relative_to(tmp_path)) for part in again.parts]
    assert names == ["a.parquet/part-0.parquet", "b.parquet"]


def test_a_table_that_the_store_withholds_for_a_moment_is_read(s3, stand_in):
    s3.put_table("t.parquet", {"image": [EXAMPLES[0].read_bytes()]})
    s3.broken["t.parquet"] = 4
    job = open_job(s3.uri("t.parquet"), s3.uri("scores"))
    s3.broken.update({"t.parquet": 4, "scores/part": 4})
    assert score(stand_in, job)["scored"] == 1


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/in?endpoint_override=minio:9000&scheme=http",
        "abfs://container@account.dfs.core.windows.net/in",
        "hdfs://name:8020/in?user=me",
        "gs://bucket/in?retry_limit_seconds=9",
    ],
)
def test_uris_keep_account_host_port_and_options(tmp_path, monkeypatch, uri):
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "in" / "a b.parquet").touch()
    disk = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(_store, "_store", lambda *_: (disk, "root/"))
    (found,) = _store.files_below(uri, (".parquet",))
    assert found == uri.replace("/in", "/in/a%20b.parquet")
    assert _store.locate(found) == (disk, "root/in/a b.parquet")


def test_images_as_the_library_datasets_writes_them(stand_in, tmp_path):
    data = [
        {"bytes": EXAMPLES[0].read_bytes(), "path": "a.jpg"},
        {"bytes": None, "path": str(EXAMPLES[1])},
        {"bytes": None, "path": None},
        None,
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(data, kind)}), tmp_path / "hf.parquet")
    job = open_job(str(tmp_path / "hf.parquet"), str(tmp_path / "scores"))
    assert score(stand_in, job)["failed_by_kind"] == {"InvalidImageError": 2}
    rows = pa.concat_tables(job.store.table(part.name) for part in job.parts)
    assert rows["image"].to_pylist() == ["a.jpg", str(EXAMPLES[1]), None, None]


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_webdataset_tars(stand_in, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    one, two = (file.read_bytes() for file in EXAMPLES[:2])
    files = {"x/0.jpg": one, "x/0.b.png": b"broken", "x/0.txt": b"a cat", "x/1.txt": b"no image"}
    write_tar(folder / "0.tar", {**files, "x/3.JPG": two, "x/3.json": b"{}"})
    write_tar(folder / "1.tar", {"y/0.txt": "é".encode(), "y/0.jpg": one})
    job = open_job(str(folder), str(tmp_path / "scores"), "txt")
    summary = score(stand_in, job, keep=("txt",))
    assert (summary["images"], summary["failed_by_kind"]) == (3, {})
    rows = pa.concat_tables(job.store.table(part.name) for part in job.parts)
    assert rows["__key__"].to_pylist() == ["x/0", "x/3", "y/0"]
    assert rows["txt"].to_pylist() == ["a cat", None, "é"]
    assert "image" not in rows.column_names


@pytest.mark.parametrize("cut", [700, 1024])
def test_a_tar_that_lacks_its_end_is_an_error(tmp_path, cut):
    """Also where it ends exactly between two files."""
    file = tmp_path / "0.tar"
    write_tar(file, {"0.txt": b"first", "1.jpg": b"second"})
    file.write_bytes(file.read_bytes()[:cut])
    part = open_job(str(file), str(tmp_path / "scores")).parts[0]
    with pytest.raises(JobError, match=r"0\.tar can no longer be read: "):
        part.read(["image"])


@pytest.mark.parametrize(
    ("names", "column", "taken"),
    [
        (["0.jpg", "0.mask.png"], "image", "0.jpg"),
        (["0.jpg", "0.mask.png"], "mask.png", "0.mask.png"),
        (["0.jpg", "0.png"], "png", "0.png"),
        (["0.JPEG", "0.pdf"], "image", "0.JPEG"),
        (["photo 1.5 m.jpg"], "image", "photo 1.5 m.jpg"),
        (["0.heic"], "image", "0.heic"),  # which the server refuses by name
        (["0.left.jpg", "0.right.jpg"], "left.jpg", "0.left.jpg"),
    ],
)
def test_the_image_of_a_sample(tmp_path, names, column, taken):
    write_tar(tmp_path / "0.tar", {name: name.encode() for name in names})
    assert read_tar(str(tmp_path / "0.tar"), [column])[column].to_pylist() == [taken.encode()]


def test_names_that_are_no_utf8_and_links(tmp_path):
    with tarfile.open(
        tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as archive:
        archive.addfile(tarfile.TarInfo("caf\xe9.png"))
    assert read_tar(str(tmp_path / "0.tar"), ["image"])["__key__"].to_pylist() == [r"caf\xe9"]
    with tarfile.open(tmp_path / "1.tar", "w") as archive:
        member = tarfile.TarInfo("b.png")
        member.type, member.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(member)
    with pytest.raises(JobError, match=r"1\.tar has 'b\.png' as a link\. Write the files"):
        read_tar(str(tmp_path / "1.tar"), ["image"])


def test_of_several_images_one_must_be_named(tmp_path):
    write_tar(tmp_path / "0.tar", {"a/7.jpg": b"", "a/7.png": b""})
    with pytest.raises(JobError, match=r"sample a/7 of .*0\.tar has several images, jpg, png"):
        read_tar(str(tmp_path / "0.tar"), ["image"])
