"""Samples: right rows, right types; augmentation by seed, epoch and image alone."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ma_agiqa.data.augmentation import Augmentation
from ma_agiqa.data.features import Features, ScorerDataset
from ma_agiqa.data.features.store import FeatureStore
from ma_agiqa.lmm.identity import EmbedderIdentity

COUNT, WIDTH = 12, 16
RNG = np.random.default_rng(0)
VALUES = {
    "quality_view": RNG.integers(0, 256, (COUNT, 224, 224, 3), np.uint8),
    "semantic": RNG.normal(size=(COUNT, WIDTH)).astype(np.float16),
    "coherence": RNG.normal(size=(COUNT, WIDTH)).astype(np.float16),
}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Random features of images, in the order opposite to that of the store."""
    identity = EmbedderIdentity("demo", "float32")
    folder, keys = tmp_path_factory.mktemp("samples"), [f"{i}" for i in range(COUNT)]
    FeatureStore.create(folder, identity, 224, WIDTH, COUNT).write(keys, VALUES)
    return Features(FeatureStore(folder), keys[::-1])


def augmented(features, seed=3):
    mos = np.linspace(0, 5, COUNT).tolist()
    return ScorerDataset(features, range(COUNT), mos, Augmentation(0.7, 0.7, 0.3), seed)


def views(dataset, epoch=0):
    return torch.stack([dataset[epoch, index]["quality_view"] for index in range(len(dataset))])


def test_samples_carry_the_row_and_its_score(features):
    samples = ScorerDataset(features, [4, 1], [0.25, 3.5])
    assert len(samples) == 2
    sample = samples[1]
    row = COUNT - 2  # in the store, of the second image
    assert sample["labels"].item() == 3.5
    assert sample["group"].item() == 1
    assert np.array_equal(sample["quality_view"].numpy(), VALUES["quality_view"][row])
    assert np.array_equal(sample["coherence"].numpy(), VALUES["coherence"][row].astype(np.float32))
    types = {name: value.dtype for name, value in sample.items()}
    assert types.pop("quality_view") == torch.uint8
    assert types.pop("group") == torch.int64
    assert set(types.values()) == {torch.float32}


def test_a_batch_holds_the_samples_one_by_one(features):
    dataset = augmented(features)
    draws = [(1, 7), (0, 0), (2, 7), (1, 3)]
    for draw, sample in zip(draws, dataset.__getitems__(draws), strict=True):
        for name, value in dataset[draw].items():
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
    assert not torch.equal(views(dataset, epoch=1), first)
    assert not torch.equal(views(augmented(features, seed=4)), first)
    # The image decides, not its position in the part.
    part = ScorerDataset(features, [8, 2], [1.0, 2.0], Augmentation(0.7, 0.7, 0.3), 3)
    assert torch.equal(views(part), first[[8, 2]])


def test_worker_processes_give_the_same_samples(features):
    dataset = augmented(features)
    draws = [[(epoch, index) for index in range(COUNT)] for epoch in (0, 1)]
    loader = DataLoader(dataset, batch_sampler=draws, num_workers=2)
    for epoch, batch in enumerate(loader):
        assert torch.equal(batch["quality_view"], views(dataset, epoch))
