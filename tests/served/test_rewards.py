"""Rewards by a real Triton, in the order of calls of the trainers that take them.

The trainers themselves are not installed. Their calls were read in ddpo-pytorch (scripts/train.py),
flow_grpo (flow_grpo/rewards.py, scripts/train_sd3.py), verl-omni (http_scorer_client.py), UniRL
(unirl/reward/remote.py), Flow-Factory (my_reward_remote.py), cosmos-rl (remote_calculator.py) and
OpenRLHF (utils/agent.py), and are repeated here with what each does to the result. TRL and the
details of the reward server are in tests/client/rewards.
"""

import base64
import functools
import io
import json
import pickle
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from ma_agiqa_client import Retry, Scorer, rewards
from ma_agiqa_client.rewards._server import RewardServer
from support.pictures import encoded, picture
from support.servers import kill, serving
from support.waiting import wait_until

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


@contextmanager
def rewarding(url):
    """The address of a reward server before a server that scores."""
    with Scorer(url, retry=Retry(budget_s=0.2, connect_budget_s=0.2)) as scorer:
        server = RewardServer("127.0.0.1", 0, scorer)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server.address
        finally:
            server.stop()
            thread.join()


def as_flow_grpo(address):
    """Its client of DeQA: JPEGs in a pickle, in batches of at most 64; it ignores the status."""
    images = (sample() * 255).round().clamp(0, 255).to(torch.uint8).numpy().transpose(0, 2, 3, 1)
    files = [encoded(image, "JPEG") for image in images]
    reply = requests.post(address, data=pickle.dumps({"images": files}), timeout=120)
    return files, pickle.loads(reply.content)["outputs"]


def as_verl_omni(address):
    """One image per request, at a path of its own choice."""
    files = [encoded(pixels, "JPEG") for pixels in PIXELS]
    scores = []
    for file, prompt in zip(files, PROMPTS, strict=True):
        payload = pickle.dumps({"images": [file], "prompts": [prompt], "metadata": {}})
        reply = requests.post(f"{address}/score", data=payload, timeout=120)
        assert reply.status_code == 200
        fields = pickle.loads(reply.content)
        assert "error" not in fields
        scores.append(float(fields["scores"][0]))
    return files, scores


def as_unirl(address):
    """It asks which rewards there are, and takes the first metric of each."""
    assert "mos" in requests.get(f"{address}/health", timeout=5).json()["rewards"]
    assert "mos" in requests.get(f"{address}/rewards", timeout=5).json()["rewards"]
    files = [encoded(pixels, "JPEG", quality=95) for pixels in PIXELS]
    asked = [
        {
            "history": [{"text": prompt, "image_b64": base64.b64encode(file).decode("ascii")}],
            "required_rewards": ["mos"],
            "metadata": None,
        }
        for file, prompt in zip(files, PROMPTS, strict=True)
    ]
    reply = requests.post(f"{address}/score", json={"requests": asked}, timeout=120)
    reply.raise_for_status()
    assert reply.json()["errors"] == [{}] * BATCH
    return files, [next(iter(result["mos"].values())) for result in reply.json()["results"]]


def as_flow_factory(address):
    """PNGs; the same request for single images and for the group of one prompt."""
    assert requests.get(f"{address}/health", timeout=5).ok
    files = [encoded(pixels, "PNG") for pixels in PIXELS]
    payload = {
        "prompt": list(PROMPTS),
        "image": [base64.b64encode(file).decode() for file in files],
        **dict.fromkeys(("video", "condition_images", "condition_videos")),
    }
    reply = requests.post(f"{address}/compute", json=payload, timeout=60)
    reply.raise_for_status()
    assert not reply.json().get("error")
    return files, torch.tensor(reply.json()["rewards"], dtype=torch.float32).tolist()


def as_cosmos_rl(address):
    """Raw pixels; the rewards are fetched later. It takes every status but 200 for "not yet"."""
    pixels = (sample().permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    data = {"prompts": list(PROMPTS), "reward_fn": {"mos": 1.0}, "media_type": "image"}
    ping = {"info_data": json.dumps(data)}
    assert requests.post(f"{address}/api/reward/ping", data=ping, timeout=10).json()["message"]
    file = io.BytesIO()
    np.save(file, pixels, allow_pickle=False)
    headers = {"Content-Type": "application/octet-stream", "Authorization": "Bearer "}
    body = json.dumps(data).encode() + b"\n" + file.getvalue()
    reply = requests.post(f"{address}/api/reward/enqueue", data=body, headers=headers, timeout=60)
    key = reply.json()["uuid"]
    assert reply.json().get("replica_id") is None
    form = {"uuid": key, "type": "mos"}
    pull = functools.partial(requests.post, f"{address}/api/reward/pull", data=form, timeout=10)
    wait_until(lambda: pull().status_code == 200)
    return list(pixels), torch.tensor(pull().json()["scores"]["mos"]).tolist()


def as_openrlhf(address):
    """One text per request, which is an image here; it averages what is in extra_logs."""
    files = [encoded(pixels, "PNG") for pixels in PIXELS]
    scores = []
    for file, prompt in zip(files, PROMPTS, strict=True):
        query = [base64.b64encode(file).decode()]
        payload = {"query": query, "prompts": [prompt], "labels": [""]}
        reply = requests.post(f"{address}/get_reward", json=payload, timeout=180)
        reply.raise_for_status()
        assert (
            reply.json()["rewards"] == reply.json()["scores"] == reply.json()["extra_logs"]["mos"]
        )
        scores += reply.json()["scores"]
    return files, scores


TRAINERS = [as_flow_grpo, as_verl_omni, as_unirl, as_flow_factory, as_cosmos_rl, as_openrlhf]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_same_pictures_give_the_same_rewards(stand_in, expected, trainer):
    """Those of the files or pixels that a trainer sends, each asked for alone."""
    with rewarding(stand_in.grpc_url) as address, Scorer(stand_in.grpc_url) as scorer:
        sent, rewarded = trainer(address)
        alone = [scorer.score(image).normalized for image in sent]
    assert rewarded == pytest.approx(alone, abs=TOLERANCE)
    assert rewarded == pytest.approx(expected, abs=0.005)  # JPEG changes them a little


def test_no_trainer_gets_rewards_from_a_server_that_goes_away(stand_in_repository):
    with serving(stand_in_repository) as triton, rewarding(triton.grpc_url) as address:
        assert as_cosmos_rl(address)
        kill(triton)
        for trainer in TRAINERS:
            with pytest.raises((KeyError, AssertionError, TypeError, requests.HTTPError)):
                trainer(address)


def test_the_example_repairs_the_picture(server, tmp_path):
    command = [sys.executable, "client/examples/evolve_picture.py", "examples/coffee_pristine.jpg"]
    options = ["--url", server.grpc_url, "--output", str(tmp_path), "--generations", "8"]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    curve = np.loadtxt(tmp_path / "curve.csv", delimiter=",")
    assert curve.shape == (9, 7)  # of each generation the reward and the amounts of six changes
    assert not curve[:, 4:].any()  # constrained to repairs
    assert np.diff(curve[:, 0]).min() >= -1e-4  # float32, in one batch or another
    assert curve[-1, 0] > curve[0, 0] + 0.3
    with Image.open(tmp_path / "before_after.png") as pair, Image.open(ROOT / command[2]) as true:
        width, height = true.size
        assert pair.size == (2 * width, height)
        halves = np.split(np.asarray(pair, np.float32), 2, axis=1)
        before, after = (np.abs(half - np.asarray(true, np.float32)).mean() for half in halves)
    assert after < before / 2
