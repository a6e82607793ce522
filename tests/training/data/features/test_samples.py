"""Samples: right rows, right types; augmentation by seed, epoch and image alone."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ma_agiqa.data.features import Augmentation, FeatureStore, ScorerDataset
from ma_agiqa.data.features.identity import describe_embedder, store_identity
from ma_agiqa.data.features.source_files import FILE_RECORD
from support.rated_images import write_images

COUNT, WIDTH = 12, 16


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A store of random rows, opened with its images in reverse."""
    folder = tmp_path_factory.mktemp("samples")
    images = write_images(folder, COUNT)
    identity = store_identity(describe_embedder("demo", "float32", 224, WIDTH, None))
    store = FeatureStore.create(folder / "store", [image.name for image in images], identity)
    rng = np.random.default_rng(0)
    values = {
        "quality_view": rng.integers(0, 256, (COUNT, 224, 224, 3), np.uint8),
        "semantic": rng.normal(size=(COUNT, WIDTH)).astype(np.float16),
        "coherence": rng.normal(size=(COUNT, WIDTH)).astype(np.float16),
        "files": np.zeros(COUNT, FILE_RECORD),
    }
    with store.writing() as writer:
        writer.write(range(COUNT), values)
    return store.features(images[::-1])


def augmented(features, seed=3):
    mos = np.linspace(0, 5, COUNT).tolist()
    return ScorerDataset(features, range(COUNT), mos, Augmentation(0.7, 0.7, 0.3), seed)


def views(dataset):
    return torch.stack([dataset[position]["quality_view"] for position in range(len(dataset))])


def test_samples_carry_the_row_and_its_score(features):
    samples = ScorerDataset(features, [4, 1], [0.25, 3.5])
    assert len(samples) == 2
    sample = samples[1]
    row = COUNT - 2  # the second image of the reversed list
    assert sample["labels"].item() == 3.5
    assert np.array_equal(sample["quality_view"].numpy(), features.quality_view[row])
    assert np.array_equal(sample["coherence"].numpy(), features.coherence[row].astype(np.float32))
    types = {name: value.dtype for name, value in sample.items()}
    assert types.pop("quality_view") == torch.uint8
    assert set(types.values()) == {torch.float32}


def test_a_batch_holds_the_samples_one_by_one(features):
    dataset = augmented(features)
    positions = [7, 0, 7, 3]
    for position, sample in zip(positions, dataset.__getitems__(positions), strict=True):
        for name, value in dataset[position].items():
            assert torch.equal(sample[name], value), name


def test_augmentation_turns_and_flips_as_told():
    random = np.random.default_rng(0)
    view = random.integers(0, 256, (4, 4, 3), np.uint8)
    assert np.array_equal(Augmentation(0, 0, 0)(view, random), view)
    assert np.array_equal(Augmentation(0, 1, 0)(view, random), view[::-1])
    assert np.array_equal(Augmentation(0, 0, 1)(view, random), view[:, ::-1])
    turned = [Augmentation(1, 0, 0)(view, random) for _ in range(3000)]
    for count in (1, 2, 3):
        share = np.mean([np.array_equal(t, np.rot90(view, count)) for t in turned])
        assert share == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("probability", [0.7, 0.2])
def test_each_change_happens_as_often_as_told(probability):
    view = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for changed in (
        Augmentation(probability, 0, 0),
        Augmentation(0, probability, 0),
        Augmentation(0, 0, probability),
    ):
        done = [
            not np.array_equal(changed(view, np.random.default_rng([5, epoch, image])), view)
            for epoch in range(20)
            for image in range(100)
        ]
        assert np.mean(done) == pytest.approx(probability, abs=0.04)


def test_turns_and_flips_are_independent():
    view = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    both = Augmentation(0.5, 0.5, 0)
    kinds = {view.tobytes(): "none", view[::-1].tobytes(): "flip"}
    found = [
        kinds.get(both(view, np.random.default_rng(seed)).tobytes(), "turn") for seed in range(4000)
    ]
    # A turn by 180 degrees is no single flip, so every result but two is a turn.
    assert found.count("none") / 4000 == pytest.approx(0.25, abs=0.03)
    assert found.count("flip") / 4000 == pytest.approx(0.25, abs=0.03)


def test_augmentation_follows_from_seed_epoch_and_image(features):
    dataset = augmented(features)
    first = views(dataset)
    state = torch.get_rng_state()
    assert torch.equal(views(augmented(features)), first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    np.random.seed(9)
    assert torch.equal(views(dataset), first)
    dataset.set_epoch(1)
    assert not torch.equal(views(dataset), first)
    dataset.set_epoch(0)
    assert torch.equal(views(dataset), first)
    assert not torch.equal(views(augmented(features, seed=4)), first)
    # The image decides, not its position in the part.
    part = ScorerDataset(features, [8, 2], [1.0, 2.0], Augmentation(0.7, 0.7, 0.3), 3)
    assert torch.equal(views(part), first[[8, 2]])


def test_workers_that_live_on_see_the_same_samples_in_every_epoch(features):
    dataset = augmented(features)
    loader = DataLoader(dataset, batch_size=5, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["quality_view"] for batch in loader]), views(dataset))


def test_features_travel_as_their_folder(features):
    data = pickle.dumps(features)
    assert len(data) < 5000
    again = pickle.loads(data)
    assert np.array_equal(again.rows, features.rows)
    assert np.array_equal(again.quality_view, features.quality_view)
