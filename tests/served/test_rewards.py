"""Rewards by a real Triton, in the order of calls of the trainers that take them.

The trainers themselves are not installed. Their calls were read in ddpo-pytorch (scripts/train.py)
and flow_grpo (flow_grpo/rewards.py, scripts/train_sd3.py), and are repeated here with what each
does to the result. TRL, verl-omni and reward servers are in tests/client/rewards.
"""

import subprocess
import sys
from collections import defaultdict
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa_client import Scorer, rewards
from support.pictures import picture

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6  # of the reward: float32
BATCH = 6


PIXELS = np.stack([picture(seed, 96, 128) for seed in range(BATCH)])
PROMPTS = tuple(f"prompt {index % 2}" for index in range(BATCH))
METADATA = ({},) * BATCH


def sample() -> torch.Tensor:
    """What a diffusion pipeline gives with output_type="pt": NCHW float in 0-1."""
    return torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def expected(stand_in):
    """The normalized score of each picture, each asked for alone."""
    with Scorer(stand_in.grpc_url) as scorer:
        scores = np.array([scorer.score(pixels).normalized for pixels in PIXELS])
    assert np.ptp(scores) > 0.05  # else a mixed-up order would not be seen
    return scores


@pytest.fixture
def environment(stand_in, monkeypatch):
    monkeypatch.setenv("MA_AGIQA_URL", stand_in.grpc_url)


@pytest.mark.usefixtures("environment")
def test_ddpo_pytorch(expected):
    """One epoch's sampling: submit each batch to two threads, wait, collate, standardize."""
    reward_fn = rewards.ma_agiqa_score()  # found by name, called without arguments
    executor = futures.ThreadPoolExecutor(max_workers=2)
    samples = []
    for _ in range(3):
        images = sample()
        samples.append({"rewards": executor.submit(reward_fn, images, PROMPTS, METADATA)})
    for one in samples:
        scores, _ = one["rewards"].result()
        one["rewards"] = torch.as_tensor(scores, device="cpu")
    collated = {k: torch.cat([one[k] for one in samples]) for k in samples[0]}
    assert [f"{reward:.2f}" for reward in scores] == [f"{float(r):.2f}" for r in scores]
    gathered = collated["rewards"].cpu().numpy()
    assert gathered.dtype == np.float32
    assert gathered == pytest.approx(np.tile(expected, 3), abs=TOLERANCE)
    advantages = (gathered - gathered.mean()) / (gathered.std() + 1e-8)
    assert torch.as_tensor(advantages).reshape(1, -1)[0].std() == pytest.approx(1, abs=0.1)


def brightness(device):
    """Another reward, of the trainer's own."""
    return lambda images, prompts, metadata: (images.mean((1, 2, 3)).tolist(), {})


def multi_score(device, weights):
    """flow_grpo's weighted sum: what it calls, asks of and does to each reward."""
    known = {"ma_agiqa": rewards.ma_agiqa_score, "brightness": brightness}
    functions = {
        name: known[name](device) if "device" in known[name].__code__.co_varnames else known[name]()
        for name in weights
    }

    def total_score(images, prompts, metadata, only_strict=True):
        totals, details = [], {}
        for name, weight in weights.items():
            scores, _ = functions[name](images, prompts, metadata)
            details[name] = scores
            weighted = [weight * score for score in scores]
            totals = [t + w for t, w in zip(totals, weighted, strict=True)] if totals else weighted
        details["avg"] = totals
        return details, {}

    return total_score


@pytest.mark.parametrize("weights", [{"ma_agiqa": 1.0}, {"brightness": 0.5, "ma_agiqa": 2}])
@pytest.mark.usefixtures("environment")
def test_flow_grpo(expected, weights):
    reward_fn = multi_score(torch.device("cpu"), weights)
    executor = futures.ThreadPoolExecutor(max_workers=8)
    samples = []
    for _ in range(2):
        images = sample()
        pending = executor.submit(reward_fn, images, PROMPTS, METADATA, only_strict=True)
        samples.append(pending)
    gathered = defaultdict(list)
    for one in samples:
        details, _ = one.result()
        for key, value in details.items():
            gathered[key].append(torch.as_tensor(value, device="cpu").float())
    average = torch.cat(gathered["avg"]).unsqueeze(1).repeat(1, 3).numpy()
    other = weights.get("brightness", 0) * sample().mean((1, 2, 3)).numpy()
    total = np.tile(other + weights["ma_agiqa"] * expected, 2)
    assert average == pytest.approx(total[:, None].repeat(3, 1), abs=3 * TOLERANCE)


def test_the_example_repairs_the_picture(server, tmp_path):
    command = [sys.executable, "client/examples/evolve_picture.py", "examples/coffee_pristine.jpg"]
    options = ["--url", server.grpc_url, "--output", str(tmp_path), "--generations", "8"]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    curve = np.loadtxt(tmp_path / "curve.csv", delimiter=",")
    assert curve.shape == (9, 4)
    assert np.diff(curve[:, 0]).min() >= -1e-4  # float32, in one batch or another
    assert curve[-1, 0] > curve[0, 0] + 0.3
    with Image.open(tmp_path / "before_after.png") as pair, Image.open(ROOT / command[2]) as true:
        width, height = true.size
        assert pair.size == (2 * width, height)
        halves = np.split(np.asarray(pair, np.float32), 2, axis=1)
        before, after = (np.abs(half - np.asarray(true, np.float32)).mean() for half in halves)
    assert after < before / 2
