"""Q-Align at a small size, from files of the published names in the layout of the hub's cache."""

import numpy as np
import pytest
import torch

from ma_agiqa.errors import CheckpointError
from ma_agiqa.evaluate.baselines import q_align
from ma_agiqa.evaluate.baselines.scoring import Options, load
from ma_agiqa.images.views import semantic_view
from ma_agiqa.lmm.embedder import CLIP_MEAN, CLIP_STD
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.sources import demo_mplug_owl2

COMMIT = "0" * 40
RGB = np.random.default_rng(2).integers(0, 256, (150, 210, 3), np.uint8)


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """The demo's mPLUG-Owl2 with a random language head, as `pytorch_model.bin`."""
    repo = tmp_path / "models--q-future--one-align"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    owl = demo_mplug_owl2()
    owl.config.save_pretrained(folder)
    state = {f"model.{name}": value for name, value in owl.state_dict().items()}
    head = (owl.config.vocab_size, owl.config.hidden_size)
    state["lm_head.weight"] = torch.randn(head, generator=torch.Generator().manual_seed(4))
    torch.save(state, folder / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        q_align, "snapshot_download", _from(tmp_path)
    )  # its default folder was bound at import
    return folder


def _from(cache):
    from huggingface_hub import snapshot_download

    return lambda repo, **settings: snapshot_download(repo, cache_dir=cache, **settings)


def test_the_score_is_the_weighted_mean_of_the_five_words(snapshot, monkeypatch):
    monkeypatch.setattr(q_align.torch, "bfloat16", torch.float32)
    scorer = load("qalign", Options())
    state = torch.load(snapshot / "pytorch_model.bin", weights_only=True)
    config = demo_mplug_owl2().config
    owl = MPlugOwl2Model.from_official(config, state)
    view = torch.from_numpy(semantic_view(RGB, config.vision.image_size))
    pixels = (view.float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    with torch.inference_mode():
        hidden = owl(pixels.permute(2, 0, 1)[None], torch.tensor(q_align._PROMPT))[0, -1]
    logits = hidden @ state["lm_head.weight"].T
    words = [15129, 1781, 6534, 6460, 4319]  # excellent, good, fair, poor, bad
    expected = logits[words].softmax(0) @ torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    assert scorer.score(RGB) == pytest.approx(float(expected), abs=1e-5)
    assert 1 <= scorer.score(RGB) <= 5
    assert "q-future/one-align" in scorer.origin


def test_weights_without_a_language_head_are_refused(snapshot):
    state = torch.load(snapshot / "pytorch_model.bin", weights_only=True)
    del state["lm_head.weight"]
    torch.save(state, snapshot / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        load("qalign", Options())
