"""Identities: what tells embedders apart, how differences are named."""

import pytest
import torch

from ma_agiqa.data.features import identify, wanted_identity
from ma_agiqa.data.features.identity import differences, store_identity
from ma_agiqa.lmm.sources import build_embedder


@pytest.fixture(scope="module")
def embedder():
    return build_embedder("demo")


def test_identity_follows_weights_and_dtype(embedder):
    first = identify("demo", embedder)
    other = build_embedder("demo")
    assert identify("demo", other) == first
    with torch.no_grad():
        next(iter(other.model.parameters())).add_(1e-3)
    changed = identify("demo", other)
    assert changed["weights_sha256"] != first["weights_sha256"]
    assert identify("demo", build_embedder("demo", dtype="bfloat16"))["dtype"] == "bfloat16"
    assert set(first["prompts"]) == {"semantic", "coherence"}
    assert (first["image_size"], first["hidden_size"]) == (224, 128)


def test_what_is_wanted_agrees_with_what_is_made(embedder):
    found = store_identity(identify("demo", embedder))
    assert differences(found, wanted_identity("demo", "float32")) == []
    assert differences(found, wanted_identity("demo", "float16")) == [
        "embedder.dtype is 'float32' there, but 'float16' is wanted"
    ]


def test_the_hash_of_weights_counts_only_where_both_are_known():
    def weights(value):
        return {"embedder": {"weights_sha256": value}}

    assert differences(weights("a"), weights("a")) == []
    assert differences(weights(None), weights("a")) == []
    assert differences(weights("a"), weights(None)) == []
    assert len(differences(weights("a"), weights("b"))) == 1


def test_a_setting_that_the_store_does_not_state_is_a_difference():
    assert differences({}, {"preprocessing": {"pixels": "RGB"}}) == [
        "preprocessing.pixels is None there, but 'RGB' is wanted"
    ]
