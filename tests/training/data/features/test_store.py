"""The store on disk: its files, room for them, damage."""

import json
import resource

import numpy as np
import pytest

from ma_agiqa.errors import DataError
from ma_agiqa.data.features import FeatureStore
from ma_agiqa.data.features.identity import describe_embedder, store_identity

IDENTITY = store_identity(describe_embedder("demo", "float32", 224, 16, None))
NAMES = ["a.png", 'b "quoted", with a comma.png', "c/ü.png"]


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(tmp_path / "store", NAMES, IDENTITY)


def test_a_new_store_has_every_row_and_none_done(store):
    again = FeatureStore(store.folder)
    assert again.names == tuple(NAMES)
    assert again.identity == IDENTITY
    assert not again.done().any()
    views = np.load(store.folder / "quality_view.npy", mmap_mode="r")
    assert (views.shape, views.dtype) == ((3, 224, 224, 3), np.uint8)
    assert np.load(store.folder / "semantic.npy").dtype == np.float16


def test_all_room_is_taken_at_once(store):
    for name in ("quality_view", "semantic", "coherence", "files", "progress"):
        status = (store.folder / f"{name}.npy").stat()
        assert status.st_blocks * 512 >= status.st_size, name


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"need 1\.51e\+05 GB in .* where .* GB are free"):
        FeatureStore.create(tmp_path / "store", range(10**9), IDENTITY)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_no_store(tmp_path):
    """A limit on the size of files stands for a quota; the kernel refuses either alike."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(DataError, match="that room is not given: File too large"):
            FeatureStore.create(tmp_path / "store", [f"{i}.png" for i in range(20)], IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not FeatureStore.exists(tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_disk_that_fails_later_leaves_the_row_undone(store):
    values = {name: np.load(store.folder / f"{name}.npy")[:1] for name in ("files", "quality_view")}
    values |= {name: np.zeros((1, 16), np.float16) for name in ("semantic", "coherence")}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store.writing() as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(DataError, match=r"Cannot write .*: File too large"):
                writer.write([2], values)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not store.done().any()
        writer.write([1], values)
    assert store.done().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "identity.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "identity.json").write_text("[]"), "states format None"),
        (
            lambda folder: (folder / "identity.json").write_text(
                json.dumps({"embedder": {}, "images": 5, "sha256": ""})
            ),
            "states format None, this version reads 1",
        ),
        (lambda folder: (folder / "images.csv").unlink(), "images.csv"),
        (lambda folder: (folder / "images.csv").write_text("image\na.png\n"), r"not uint8 \(1,"),
        (lambda folder: cut(folder / "quality_view.npy"), "damaged"),
        (lambda folder: cut(folder / "semantic.npy", 10), "damaged"),
    ],
)
def test_a_damaged_store_is_refused(store, damage, said):
    damage(store.folder)
    with pytest.raises(DataError, match=said) as caught:
        FeatureStore(store.folder)
    assert "--overwrite" in str(caught.value)


def cut(path, size=200_000):
    path.write_bytes(path.read_bytes()[:size])


def test_a_folder_without_a_store_is_no_store(tmp_path, store):
    with pytest.raises(DataError, match="holds no features"):
        FeatureStore(tmp_path)
    (store.folder / "identity.json").unlink()  # as when its making was cut short
    with pytest.raises(DataError, match="holds no features"):
        FeatureStore(store.folder)
