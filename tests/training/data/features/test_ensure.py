"""What a store gets, what is made again, what is refused; demo embedder, real files."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ma_agiqa.data.features import FeatureSettings, ensure_features
from ma_agiqa.data.features.embedders import InProcessEmbedder
from ma_agiqa.data.features.ensure import _Run
from ma_agiqa.data.features.extract import extract
from ma_agiqa.data.features.store import FeatureStore
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.images.views import decode, quality_view, semantic_view
from ma_agiqa.lmm.mplug_owl2.weight_files import write_tensors
from ma_agiqa.lmm.sources import build_embedder, demo_mplug_owl2
from support.rated_images import write_images

SETTINGS = FeatureSettings(batch_size=3)
HALF_PRECISION = 2e-3  # float16 keeps 11 bits; the demo's embeddings are around 1


def ensure(folder, images, *width, settings=SETTINGS, source="demo", **more):
    return ensure_features(source, settings, folder, images, *width, device="cpu", **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Seven images and their features, made in one go."""
    folder = tmp_path_factory.mktemp("made")
    images = write_images(folder, 7)
    ensure(folder / "store", images)
    return folder, images


@pytest.fixture
def images(made, tmp_path):
    """The same images in files of their own."""
    shutil.copytree(made[0] / "images", tmp_path / "images")
    return [dataclasses.replace(i, path=tmp_path / "images" / i.name) for i in made[1]]


@pytest.fixture
def folder(made, tmp_path):
    """A complete store of its own."""
    return shutil.copytree(made[0] / "store", tmp_path / "store")


@pytest.fixture
def no_embedder(monkeypatch):
    def load(*_):
        raise AssertionError("The embedder is loaded although nothing is to be made.")

    monkeypatch.setattr(_Run, "load", load)


def alter(monkeypatch, change=lambda outputs: None, **identity):
    """Give the demo's embedder another output or identity."""
    call, load = InProcessEmbedder.__call__, InProcessEmbedder.__init__

    def embed(self, views):
        outputs = {name: values.copy() for name, values in call(self, views).items()}
        change(outputs)
        return outputs

    def init(self, *arguments):
        load(self, *arguments)
        self.identity = dataclasses.replace(self.identity, **identity)

    monkeypatch.setattr(InProcessEmbedder, "__call__", embed)
    monkeypatch.setattr(InProcessEmbedder, "__init__", init)


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_features_are_those_of_each_image_alone(folder, images):
    features = ensure(folder, images)
    embedder = build_embedder("demo")
    assert (len(features), features.made) == (7, 0)
    assert features.embedder["source"] == "demo"
    for name in ("image_size", "hidden_size"):
        assert features.embedder[name] == getattr(embedder, name)
    found = features.read(range(7))
    for position, image in enumerate(images):
        rgb = decode(image.path.read_bytes())
        assert np.array_equal(found["quality_view"][position], quality_view(rgb))
        view = semantic_view(rgb, embedder.image_size)
        alone = embedder(torch.from_numpy(view)[None])
        for name in ("semantic", "coherence"):
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name][position], alone[name][0], atol=HALF_PRECISION)


def test_a_table_may_name_some_of_the_images_in_another_order(folder, images, no_embedder):
    some = [images[5], images[1]]
    features = ensure(folder, some)
    expected = quality_view(decode(images[5].path.read_bytes()))
    assert np.array_equal(features.read([0])["quality_view"][0], expected)


def test_a_grown_table_makes_only_what_is_new(tmp_path, images):
    first = ensure(tmp_path / "new", images[:4])
    grown = ensure(tmp_path / "new", [images[6], *images])
    assert (first.made, grown.made, len(grown)) == (4, 3, 8)
    again = first.read(range(4))
    for name, values in grown.read(range(1, 5)).items():
        assert np.array_equal(values, again[name]), name


def test_only_a_changed_image_is_made_again(folder, images):
    images[4].path.write_bytes(images[4].path.read_bytes() + b"more")  # what follows is not read
    features = ensure(folder, images)
    assert features.made == 1
    images[3].path.write_bytes(images[0].path.read_bytes())
    features = ensure(folder, images)
    assert features.made == 0  # the content is known under another name
    found = features.read([0, 3])["quality_view"]
    assert np.array_equal(found[0], found[1])


def test_equal_files_are_made_once(tmp_path, images):
    for image in images[1:]:
        image.path.write_bytes(images[0].path.read_bytes())
    assert ensure(tmp_path / "new", images).made == 1


def test_batches_that_are_left_are_made_as_in_one_go(made, folder, images):
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    features = ensure(folder, images)
    assert 1 <= features.made <= 3
    assert shards(folder) == shards(made[0] / "store")


def test_bad_images_are_listed_when_the_others_are_done(tmp_path, images):
    for image in images[1:3]:
        image.path.write_bytes(b"no image")
    images[5].path.unlink()
    with pytest.raises(DataError, match="3 of 7 images cannot be read") as caught:
        ensure(tmp_path / "new", images)
    for image in (images[1], images[2], images[5]):
        assert f"{image.path} (row {image.row}): " in str(caught.value)
    assert ensure(tmp_path / "new", [images[0], *images[3:5], images[6]]).made == 0


def test_many_bad_images_are_counted(tmp_path):
    images = write_images(tmp_path, 25)
    for image in images:
        image.path.write_bytes(f"no image {image.name}".encode())
    with pytest.raises(DataError, match=r"\.\.\. 5 more") as caught:
        ensure(tmp_path / "new", images)
    assert "019.png" in str(caught.value)
    assert "020.png" not in str(caught.value)


def test_an_image_that_changes_meanwhile_is_named(tmp_path, images, monkeypatch):
    def extract_late(*arguments):
        images[2].path.write_bytes(images[2].path.read_bytes() + b"more")
        return extract(*arguments)

    monkeypatch.setattr("ma_agiqa.data.features.ensure.extract", extract_late)
    with pytest.raises(DataError, match=r"002\.png \(row 4\): changed"):
        ensure(tmp_path / "new", images)
    assert ensure(tmp_path / "new", images).made == 0


@pytest.mark.parametrize(
    ("stated", "difference"),
    [
        ({"source": "other", "weights_sha256": None}, "its source is 'other', not 'demo'"),
        ({"dtype": "bfloat16"}, "its dtype is bfloat16, not float32"),
        ({"weights_sha256": "0" * 64}, f"the hash of its weights is {'0' * 64}, not "),
        ({"preprocessing": {"quality_view": "256x256"}}, "its preprocessing."),
        ({"prompts": {"semantic": [1, -200]}}, "its prompts.semantic is [1, -200], not [1, 3148"),
    ],
)
def test_other_features_are_refused_by_name(folder, images, no_embedder, stated, difference):
    identity = json.loads((folder / "identity.json").read_text())
    identity["embedder"] |= stated
    (folder / "identity.json").write_text(json.dumps(identity))
    before = shards(folder)
    with pytest.raises(DataError, match=re.escape(difference)) as caught:
        ensure(folder, images)
    assert "--overwrite" in str(caught.value)
    assert shards(folder) == before


def test_features_of_the_first_layout_are_used(folder, images, no_embedder):
    """Preprocessing was once stated next to the embedder."""
    identity = json.loads((folder / "identity.json").read_text())
    identity["preprocessing"] = identity["embedder"].pop("preprocessing")
    (folder / "identity.json").write_text(json.dumps(identity))
    assert ensure(folder, images).made == 0
    identity["preprocessing"]["quality_view"] = "256x256"
    (folder / "identity.json").write_text(json.dumps(identity))
    with pytest.raises(DataError, match=r"its preprocessing\.quality_view is '256x256'"):
        ensure(folder, images)


def test_weights_that_were_replaced_in_their_folder_are_noticed(tmp_path, images):
    owl = demo_mplug_owl2()
    source = tmp_path / "owl"
    write_tensors(source, owl.config.to_dict(), owl.state_dict().items())
    first = ensure(tmp_path / "new", images[:2], source=str(source))
    assert ensure(tmp_path / "new", images[:2], source=str(source)).made == 0
    before = first.read([0])["semantic"]
    (weights,) = source.glob("*.safetensors")
    state = {name: value * 1.01 for name, value in load_file(weights).items()}
    save_file(state, weights)
    for some in (images[:2], images):  # complete or not
        with pytest.raises(DataError, match=r"the hash of its weights is [0-9a-f]{64}, not"):
            ensure(tmp_path / "new", some, source=str(source))
    moved = shutil.copytree(source, tmp_path / "moved")
    again = ensure(tmp_path / "new", images[:2], source=str(source), overwrite=True)
    assert again.made == 2
    assert not np.array_equal(again.read([0])["semantic"], before)
    assert ensure(tmp_path / "new", images[:2], source=str(moved)).made == 0


def test_weights_that_are_gone_leave_their_features_usable(folder, images, no_embedder):
    identity = json.loads((folder / "identity.json").read_text())
    identity["embedder"]["source"] = "some/embedder"  # which is not on this machine
    (folder / "identity.json").write_text(json.dumps(identity))
    assert ensure(folder, images, source="some/embedder").made == 0


def test_an_embedder_that_is_not_the_wanted_one_is_refused(tmp_path, images, monkeypatch):
    alter(monkeypatch, weights_sha256="0" * 64)
    with pytest.raises(ConfigError, match=f"the hash of its weights is {'0' * 64}, not "):
        ensure(tmp_path / "new", images)
    assert not FeatureStore.exists(tmp_path / "new")


def test_overwriting_makes_everything_again(folder, images):
    assert ensure(folder, images[:4], overwrite=True).made == 4
    assert ensure(folder, images).made == 3


def test_a_scorer_that_expects_another_width_is_refused_at_once(folder, images, no_embedder):
    for place in (folder, folder.with_name("new")):
        with pytest.raises(ConfigError, match=r"semantic_dim is 64, .* 128 values; set it to 128"):
            ensure(place, images, 64)
    assert not folder.with_name("new").exists()
    assert ensure(folder, images, 128).made == 0


@pytest.mark.parametrize(("value", "said"), [(70000.0, "reaches 70000.0"), (np.nan, "nan")])
def test_an_embedding_beyond_float16_names_its_image(tmp_path, images, value, said, monkeypatch):
    def change(outputs):
        outputs["coherence"][1, 5] = value

    alter(monkeypatch, change)
    with pytest.raises(DataError, match=rf"001\.png \(row 3\): the coherence embedding .*{said}"):
        ensure(tmp_path / "new", images, settings=FeatureSettings(batch_size=9))
    assert shards(tmp_path / "new") == {}
