"""Features from the served mPLUG-Owl2, through the real server."""

import dataclasses

import numpy as np
import pytest

from ma_agiqa.data.features import FeatureStore, open_features, wanted_identity
from ma_agiqa.data.features.ensure import extract_features
from ma_agiqa.data.features.served import ServedEmbedder
from ma_agiqa.errors import ConfigError
from ma_agiqa.train.config import load_config
from support.local_hub import free_port
from support.rated_images import write_config, write_images

WANTED = wanted_identity("demo", "float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("served"), 75)


@pytest.fixture
def config(images, tmp_path):
    path = write_config(images[0].path.parent.parent, batch_size=10)
    return load_config(path, {"features.folder": str(tmp_path / "store")})


def test_served_features_are_those_made_in_process(server, config, images, tmp_path):
    assert extract_features(config, images, url=server.grpc_url).made == 75
    served = open_features(config.feature_folder, images, WANTED)
    extract_features(config, images, device="cpu", overwrite=True)
    here = open_features(config.feature_folder, images, WANTED)
    assert np.array_equal(served.quality_view, here.quality_view)
    for name in ("semantic", "coherence"):
        one, other = getattr(served, name), getattr(here, name)
        # Both are rounded from float32 values that differ in their last bits.
        assert np.all(np.abs(one.astype(float) - other) <= np.spacing(np.abs(other))), name
        assert np.mean(one == other) > 0.99, name


def test_a_store_may_be_begun_by_a_server_and_ended_in_process(server, config, images):
    extract_features(config, images, url=server.grpc_url)
    with FeatureStore(config.feature_folder).writing() as writer:
        writer.forget(range(20, 40))
    assert extract_features(config, images, device="cpu").made == 20


def test_the_served_configuration_is_the_identity(server):
    embedder = ServedEmbedder(server.grpc_url)
    identity = embedder.identity()
    embedder.close()
    found = [identity[name] for name in ("source", "dtype", "image_size", "hidden_size")]
    assert found == ["demo", "float32", 224, 128]
    assert embedder.max_batch_size == 32


def test_a_batch_is_no_larger_than_the_server_takes(server, images, tmp_path):
    path = write_config(images[0].path.parent.parent, batch_size=50)
    config = load_config(path, {"features.folder": str(tmp_path / "store")})
    assert extract_features(config, images, url=server.grpc_url).made == 75


def test_another_served_model_is_refused(server, config, images):
    other = dataclasses.replace(config, embedder="some/owl")
    with pytest.raises(ConfigError, match="source is 'demo' there, but 'some/owl' is wanted"):
        extract_features(other, images, url=server.grpc_url)
    assert not config.feature_folder.exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"127.0.0.1:{free_port()}", "No Triton server answers at 127.0.0.1"),
        ("http://localhost:8001", "expected HOST:PORT"),
    ],
    ids=["no server", "no address"],
)
def test_an_address_without_a_server_is_said(config, images, url, said):
    with pytest.raises(ConfigError, match=said):
        extract_features(config, images, url=url)


def test_the_port_of_another_protocol_is_said(server, config, images):
    http = server.http_url.removeprefix("http://")
    with pytest.raises(ConfigError, match=f"No Triton server answers at {http}"):
        extract_features(config, images, url=http)
