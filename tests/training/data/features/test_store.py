"""The store on disk: its shards, room for them, damage."""

import json
import pickle
import resource
import shutil

import numpy as np
import pytest

from ma_agiqa.data.features.store import FeatureStore
from ma_agiqa.errors import DataError
from ma_agiqa.lmm.identity import EmbedderIdentity

IDENTITY, SIZES = EmbedderIdentity("demo", "float32"), (224, 16)


def random_values(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "quality_view": rng.integers(0, 256, (count, 224, 224, 3), np.uint8),
        "semantic": rng.normal(size=(count, 16)).astype(np.float16),
        "coherence": rng.normal(size=(count, 16)).astype(np.float16),
    }


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(tmp_path / "store", IDENTITY, *SIZES, 5)


def test_what_is_written_is_read_in_any_order(store):
    first, second = random_values(3), random_values(2, seed=1)
    store.write(["a", "b", "c"], first)
    store.write(["d", "e"], second)
    again = FeatureStore(store.folder)
    assert again.identity.differences(IDENTITY) == []
    assert (again.embedder["image_size"], again.embedder["hidden_size"]) == SIZES
    assert "d" in again
    assert "f" not in again
    found = pickle.loads(pickle.dumps(again)).read(["e", "a", "e"])
    for name, values in found.items():
        expected = np.stack([second[name][1], first[name][0], second[name][1]])
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected), name


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"need 1\.51e\+05 GB in .* where .* GB are free"):
        FeatureStore.create(tmp_path / "store", IDENTITY, *SIZES, 10**9)
    assert not FeatureStore.exists(tmp_path / "store")


def test_a_full_disk_leaves_no_part_of_a_shard(store):
    """A limit on the size of files stands for the disk; the kernel refuses either alike."""
    store.write(["a"], random_values(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r"Cannot write .*\.safetensors: File too large"):
            store.write(["b"], random_values(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again = FeatureStore(store.folder)
    assert "a" in again
    assert "b" not in again
    assert len(list(store.folder.iterdir())) == 2


def test_a_damaged_shard_counts_as_missing(store, caplog):
    store.write(["a"], random_values(1))
    store.write(["b"], random_values(1))
    for key, damage in (("a", lambda data: data[:-10]), ("b", lambda data: b"no shard")):
        shard = store.folder / FeatureStore(store.folder)._places[key][0]
        shard.write_bytes(damage(shard.read_bytes()))
        assert key not in FeatureStore(store.folder)
    assert "its features are made again" in caplog.text


def test_a_new_store_takes_the_place_of_an_old_one(store):
    store.write(["a"], random_values(1))
    (store.folder / "identity.json").unlink()  # as when its making was cut short
    assert not FeatureStore.exists(store.folder)
    assert "a" not in FeatureStore.create(store.folder, IDENTITY, *SIZES, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ("3", "cannot be used"),
        (json.dumps({"format": 1}), "their format is 1, this version reads 2"),
        (json.dumps({"format": 2}), "embedder"),
        (None, "No such file"),
    ],
)
def test_a_damaged_identity_is_refused(store, text, said):
    if text is None:
        shutil.rmtree(store.folder)
    else:
        (store.folder / "identity.json").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        FeatureStore(store.folder)
    assert "--overwrite" in str(caught.value)
