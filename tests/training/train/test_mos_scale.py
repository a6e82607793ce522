"""Ratings of any scale are learned on 0 to 5, and the scorer gives MOS."""

import dataclasses

import pytest
import torch

from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.train.config import load_config
from ma_agiqa.train.mos_scale import MosScale
from ma_agiqa.train.trainer import ScorerWithLoss


def batch():
    generator = torch.Generator().manual_seed(3)
    view = torch.randint(0, 256, (4, 224, 224, 3), dtype=torch.uint8, generator=generator)
    return view, *(torch.randn(4, 128, generator=generator) for _ in range(2))


@pytest.fixture
def scorer(small_config):
    torch.manual_seed(0)
    return MAAGIQA(load_config(small_config).scorer_config()).eval()


@pytest.mark.parametrize(("low", "high"), [(0, 100), (1, 5), (-3, 3), (0, 1)])
@pytest.mark.parametrize("fusion", ["moe", "concat"])
@torch.no_grad()
def test_the_last_layer_takes_the_scale_in_and_out(scorer, low, high, fusion):
    scorer = MAAGIQA(dataclasses.replace(scorer.config, fusion=fusion)).eval()
    scale, views = MosScale(low, high), batch()
    learned = scorer(*views).score
    scale.put_into(scorer)
    torch.testing.assert_close(
        scorer(*views).score, low + learned * (high - low) / 5, atol=1e-4, rtol=1e-5
    )
    scale.take_out_of(scorer)
    torch.testing.assert_close(scorer(*views).score, learned, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_papers_scale_changes_no_bit(scorer):
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    MosScale(0.0, 5.0).put_into(scorer)
    assert all(torch.equal(before[name], value) for name, value in scorer.state_dict().items())
    mos = torch.rand(1000) * 5
    assert torch.equal(MosScale(0.0, 5.0).learned(mos), mos)


def test_a_scale_of_100_learns_as_one_of_5(scorer):
    """The same loss and scores on both, for ratings that are the same but for the scale."""
    mos, group = torch.tensor([0.5, 2.0, 3.5, 4.9]), torch.arange(4)
    small = ScorerWithLoss(scorer, MosScale(0, 5))(*batch(), labels=mos, group=group)
    large = ScorerWithLoss(scorer, MosScale(0, 100))(
        *batch(), labels=20 * mos, group=torch.arange(4)
    )
    torch.testing.assert_close(large["loss"], small["loss"])
    torch.testing.assert_close(large["score"], 20 * small["score"])
