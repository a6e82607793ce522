"""Extraction: what a store gets, what is redone, what is refused; demo embedder, real files."""

import os
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.data.features import FeatureStore, extract, open_features, wanted_identity
from ma_agiqa.data.features.embedders import InProcessEmbedder
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.sources import build_embedder
from support.rated_images import file_bytes, write_images

WANTED = wanted_identity("demo", "float32")
HALF_PRECISION = 2e-3  # float16 keeps 11 bits; the demo's embeddings are around 1


def demo(processes):
    return InProcessEmbedder("demo", "float32", "cpu")


def unused(processes):
    raise AssertionError("The embedder is loaded although nothing is to be made.")


class Altered:
    """The demo's embedder with another output or identity."""

    image_size, max_batch_size, in_flight = 224, None, 1

    def __init__(self, change=lambda outputs: None, **identity):
        self._embedder, self._change = InProcessEmbedder("demo", "float32", "cpu"), change
        self._identity = identity

    def __call__(self, processes):
        return self

    def identity(self):
        return {**self._embedder.identity(), **self._identity}

    def submit(self, views):
        outputs = {k: v.copy() for k, v in self._embedder.submit(views).result().items()}
        self._change(outputs)
        future = Future()
        future.set_result(outputs)
        return future

    def close(self):
        self._embedder.close()


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path, 7)


@pytest.fixture
def folder(tmp_path, images):
    extract(tmp_path / "store", images, WANTED, demo, batch_size=3)
    return tmp_path / "store"


def test_features_are_those_of_each_image_alone(folder, images):
    features = open_features(folder, images, WANTED)
    embedder = build_embedder("demo")
    assert len(features) == 7
    assert features.identity["source"] == "demo"
    for row, image in enumerate(images):
        rgb = decode(image.path.read_bytes())
        assert np.array_equal(features.quality_view[row], quality_view(rgb))
        view = semantic_view(rgb, embedder.image_size)
        alone = embedder(torch.from_numpy(view)[None])
        for name in ("semantic", "coherence"):
            found = getattr(features, name)[row]
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, alone[name][0], atol=HALF_PRECISION)


def test_a_complete_store_needs_no_embedder(folder, images):
    done = extract(folder, images, WANTED, unused)
    assert (done.images, done.made) == (7, 0)
    assert extract(folder, images[2:4], WANTED, unused).made == 0


def test_a_table_may_name_some_of_the_images_in_another_order(folder, images):
    some = [images[5], images[1]]
    features = open_features(folder, some, WANTED)
    assert features.rows.tolist() == [5, 1]
    expected = quality_view(decode(images[5].path.read_bytes()))
    assert np.array_equal(features.quality_view[features.rows[0]], expected)


def test_only_a_changed_image_is_made_again(tmp_path, folder, images):
    data = images[0].path.read_bytes()
    images[4].path.write_bytes(data)
    with pytest.raises(DataError, match=r"have changed .* 004\.png \(row 6\)"):
        open_features(folder, images, WANTED)
    assert extract(folder, images, WANTED, demo, batch_size=3).made == 1
    extract(tmp_path / "fresh", images, WANTED, demo, batch_size=3)
    assert file_bytes(folder) == file_bytes(tmp_path / "fresh")


def test_a_file_with_a_new_time_only_is_the_same(folder, images):
    os.utime(images[2].path, ns=(1, 10**18))
    open_features(folder, images, WANTED)
    assert extract(folder, images, WANTED, unused).made == 0
    assert FeatureStore(folder).files()["mtime_ns"][2] == 10**18


def test_bad_images_are_listed_and_only_they_are_left(tmp_path, images):
    folder, whole = tmp_path / "store", images[1].path.read_bytes()
    images[1].path.write_bytes(whole[:60])
    images[5].path.rename(tmp_path / "away.png")
    with pytest.raises(DataError) as caught:
        extract(folder, images, WANTED, demo, batch_size=3)
    message = str(caught.value)
    assert message.startswith("2 of 7 images cannot be read")
    assert "001.png (row 3): " in message
    assert "005.png (row 7): No such file" in message
    assert FeatureStore(folder).done().tolist() == [True, False, True, True, True, False, True]
    with pytest.raises(DataError, match=r"still missing .* 001\.png \(row 3\), 005\.png \(row 7\)"):
        FeatureStore(folder).features(images)
    images[1].path.write_bytes(whole)
    (tmp_path / "away.png").rename(images[5].path)
    assert extract(folder, images, WANTED, demo, batch_size=3).made == 2
    extract(tmp_path / "fresh", images, WANTED, demo, batch_size=3)
    assert file_bytes(folder) == file_bytes(tmp_path / "fresh")


def test_broken_off_it_goes_on_with_the_rest(tmp_path, images):
    calls = []

    def break_off(outputs):
        calls.append(outputs)
        if len(calls) == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        extract(folder, images, WANTED, Altered(break_off), batch_size=3)
    assert FeatureStore(folder).done().sum() == 3
    assert extract(folder, images, WANTED, demo, batch_size=3).made == 4
    extract(tmp_path / "fresh", images, WANTED, demo, batch_size=3)
    assert file_bytes(folder) == file_bytes(tmp_path / "fresh")


def test_a_long_list_of_bad_images_is_cut(tmp_path):
    images = write_images(tmp_path, 30)
    for image in images[:25]:
        image.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"\.\.\. and 5 more") as caught:
        extract(tmp_path / "store", images, WANTED, demo)
    assert "019.png" in str(caught.value)
    assert "020.png" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "difference"),
    [
        (wanted_identity("other", "float32"), "embedder.source is 'demo' there, but 'other' is"),
        (wanted_identity("demo", "bfloat16"), "embedder.dtype is 'float32' there, but 'bfloat16'"),
        (
            {**WANTED, "preprocessing": {"quality_view": "256x256"}},
            "preprocessing.quality_view is '224x224, OpenCV bicubic, aspect ratio ignored' there",
        ),
        (
            {"embedder": {"prompts": {"semantic": [1, -200, 2]}}},
            "but [1, -200, 2] is wanted",
        ),
        ({"embedder": {"image_size": 448}}, "embedder.image_size is 224 there, but 448 is wanted"),
    ],
)
def test_other_features_are_refused_by_name(folder, images, wanted, difference):
    before = file_bytes(folder)
    for attempt in (
        lambda: extract(folder, images, wanted, unused),
        lambda: open_features(folder, images, wanted),
    ):
        with pytest.raises(DataError) as caught:
            attempt()
        assert difference in str(caught.value)
        assert "--overwrite" in str(caught.value)
    assert file_bytes(folder) == before


def test_other_weights_are_refused_where_both_are_known(tmp_path, folder, images):
    images[3].path.write_bytes(images[0].path.read_bytes())
    with pytest.raises(DataError, match=r"embedder\.weights_sha256 is '[0-9a-f]{64}' there"):
        extract(folder, images, WANTED, Altered(weights_sha256="0" * 64))
    assert extract(folder, images, WANTED, Altered(weights_sha256=None), batch_size=3).made == 1


def test_an_embedder_that_is_not_the_wanted_one_is_refused(tmp_path, images):
    with pytest.raises(ConfigError, match="source is 'other' there, but 'demo' is wanted"):
        extract(tmp_path / "store", images, WANTED, Altered(source="other"))
    assert not (tmp_path / "store").exists()


def test_overwriting_makes_everything_anew(folder, images):
    fewer = images[:4]
    assert extract(folder, fewer, WANTED, demo, batch_size=3, overwrite=True).made == 4
    assert FeatureStore(folder).names == tuple(image.name for image in fewer)


def test_another_list_of_images_is_refused_by_name(tmp_path, folder, images):
    others = write_images(tmp_path / "more", 9)
    with pytest.raises(DataError, match=r"for 2 of the 9, such as 007\.png \(row 9\), 008\.png"):
        extract(folder, others, WANTED, unused)


@pytest.mark.parametrize(("value", "said"), [(70000.0, "reaches 70000.0"), (np.nan, "nan")])
def test_an_embedding_beyond_float16_names_its_image(tmp_path, images, value, said):
    def change(outputs):
        outputs["coherence"][1, 5] = value

    with pytest.raises(DataError, match=rf"001\.png \(row 3\): the coherence embedding .*{said}"):
        extract(tmp_path / "store", images, WANTED, Altered(change), batch_size=3)
    assert not FeatureStore(tmp_path / "store").done().any()
