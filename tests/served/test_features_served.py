"""Features from the served mPLUG-Owl2, through the real server."""

import numpy as np
import pytest

from ma_agiqa.data.features import FeatureSettings, ensure_features
from ma_agiqa.data.features.served import ServedEmbedder
from ma_agiqa.data.features.store import FeatureStore
from ma_agiqa.errors import ConfigError
from support.local_hub import free_port
from support.rated_images import write_images

COUNT = 75
SETTINGS = FeatureSettings(batch_size=10)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("served"), COUNT)


def ensure(folder, images, source="demo", settings=SETTINGS, **more):
    return ensure_features(source, settings, folder, images, **more)


def test_served_features_are_those_made_in_process(server, images, tmp_path):
    served = ensure(tmp_path / "store", images, url=server.grpc_url)
    assert served.made == COUNT
    here = ensure(tmp_path / "here", images, device="cpu")
    there, own = served.read(range(COUNT)), here.read(range(COUNT))
    assert np.array_equal(there["quality_view"], own["quality_view"])
    for name in ("semantic", "coherence"):
        one, other = there[name], own[name]
        # Both are rounded from float32 values that differ in their last bits.
        assert np.all(np.abs(one.astype(float) - other) <= np.spacing(np.abs(other))), name
        assert np.mean(one == other) > 0.99, name


def test_a_store_may_be_begun_by_a_server_and_ended_in_process(server, images, tmp_path):
    ensure(tmp_path / "store", images[:50], url=server.grpc_url)
    assert ensure(tmp_path / "store", images, device="cpu").made == 25


def test_the_served_configuration_is_the_identity(server):
    embedder = ServedEmbedder(server.grpc_url)
    embedder.close()
    assert (embedder.identity.source, embedder.identity.dtype) == ("demo", "float32")
    assert (embedder.image_size, embedder.hidden_size) == (112, 128)
    assert embedder.max_batch_size == 32


def test_a_batch_is_no_larger_than_the_server_takes(server, images, tmp_path):
    large = FeatureSettings(batch_size=50)
    made = ensure(tmp_path / "store", images, settings=large, url=server.grpc_url).made
    assert made == COUNT
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 3  # 32 images and less


def test_another_served_model_is_refused(server, images, tmp_path):
    with pytest.raises(ConfigError, match="its source is 'demo', not 'some/embedder'"):
        ensure(tmp_path / "store", images, source="some/embedder", url=server.grpc_url)
    assert not FeatureStore.exists(tmp_path / "store")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"127.0.0.1:{free_port()}", "No Triton server answers at 127.0.0.1"),
        ("http://localhost:8001", "expected HOST:PORT"),
    ],
    ids=["no server", "no address"],
)
def test_an_address_without_a_server_is_said(images, tmp_path, url, said):
    with pytest.raises(ConfigError, match=said):
        ensure(tmp_path / "store", images, url=url)


def test_the_port_of_another_protocol_is_said(server, images, tmp_path):
    http = server.http_url.removeprefix("http://")
    with pytest.raises(ConfigError, match=f"No Triton server answers at {http}"):
        ensure(tmp_path / "store", images, url=http)
