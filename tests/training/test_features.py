"""Features: cached, tied to embedder and images; augmentation; samples."""

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa.datasets import RatedImage
from ma_agiqa.errors import DataError
from ma_agiqa.features import Augmentation, ScorerDataset, identify, prepare
from ma_agiqa.preprocessing import decode, quality_view
from ma_agiqa.presets import build_embedder


@pytest.fixture(scope="module")
def embedder():
    return build_embedder("demo")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (40, 30 + index, 3), np.uint8)).save(path)
        found.append(RatedImage(path.name, path, float(index), path.name))
    return found


class Counting:
    """An embedder that counts the images it is given."""

    def __init__(self, embedder):
        self.embedder, self.images = embedder, 0

    def __call__(self, views):
        self.images += len(views)
        return self.embedder(views)


def test_features_are_those_of_each_image_alone(tmp_path, images, embedder):
    size = embedder.image_size
    features = prepare(tmp_path / "cache", images, embedder, {}, size, batch_size=2)
    assert features.quality_view.shape == (5, 224, 224, 3)
    assert features.semantic.shape == (5, embedder.hidden_size)
    one = prepare(tmp_path / "one", images[3:4], embedder, {}, size)
    expected = quality_view(decode(images[3].path.read_bytes()))
    assert np.array_equal(features.quality_view[3], expected)
    np.testing.assert_allclose(features.semantic[3], one.semantic[0], atol=1e-5)
    np.testing.assert_allclose(features.coherence[3], one.coherence[0], atol=1e-5)
    assert not np.allclose(features.semantic[3], features.coherence[3], atol=1e-3)


def test_the_cache_is_used_only_for_the_same_embedder_and_images(tmp_path, images, embedder):
    counting, folder, size = Counting(embedder), tmp_path / "cache", embedder.image_size
    first = prepare(folder, images, counting, {"weights": "a"}, size)
    again = prepare(folder, images, counting, {"weights": "a"}, size)
    assert counting.images == 5
    assert np.array_equal(first.semantic, again.semantic)
    prepare(folder, images, counting, {"weights": "b"}, size)
    assert counting.images == 10
    Image.new("RGB", (30, 30)).save(images[0].path)
    changed = prepare(folder, images, counting, {"weights": "b"}, size)
    assert counting.images == 15
    assert not changed.quality_view[0].any()


def test_an_unfinished_cache_is_not_taken_for_whole(tmp_path, images, embedder):
    folder, size = tmp_path / "cache", embedder.image_size

    def breaks_off(views):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, images, breaks_off, {}, size)
    assert not folder.exists()
    counting = Counting(embedder)
    prepare(folder, images, counting, {}, size)
    assert counting.images == 5


def test_a_corrupt_image_is_named(tmp_path, images, embedder):
    images[2].path.write_bytes(images[2].path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"2\.png"):
        prepare(tmp_path / "cache", images, embedder, {}, embedder.image_size)


def test_identity_follows_weights(embedder):
    first = identify("demo", embedder)
    other = build_embedder("demo")
    assert identify("demo", other) == first
    with torch.no_grad():
        next(iter(other.model.parameters())).add_(1e-3)
    assert identify("demo", other)["weights_sha256"] != first["weights_sha256"]
    assert set(first["prompts"]) == {"semantic", "coherence"}


def test_augmentation_turns_and_flips_as_told():
    view = torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3)
    assert torch.equal(Augmentation(0, 0, 0)(view), view)
    assert torch.equal(Augmentation(0, 1, 0)(view), view.flip(0))
    assert torch.equal(Augmentation(0, 0, 1)(view), view.flip(1))
    torch.manual_seed(0)
    turned = [Augmentation(1, 0, 0)(view) for _ in range(60)]
    for count in (1, 2, 3):
        share = sum(torch.equal(t, view.rot90(count, (0, 1))) for t in turned) / len(turned)
        assert 0.15 < share < 0.55
    torch.manual_seed(0)
    unchanged = sum(torch.equal(Augmentation(0, 0.7, 0)(view), view) for _ in range(1000))
    assert 250 < unchanged < 350


def test_samples_carry_the_row_and_its_score(tmp_path, images, embedder):
    features = prepare(tmp_path / "cache", images, embedder, {}, embedder.image_size)
    samples = ScorerDataset(features, [4, 1], [0.25, 3.5])
    assert len(samples) == 2
    assert samples[0]["labels"].item() == 0.25
    assert np.array_equal(samples[0]["quality_view"].numpy(), features.quality_view[4])
    assert np.array_equal(samples[1]["coherence"].numpy(), features.coherence[1])
