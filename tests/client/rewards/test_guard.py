"""The alarm for rewards that rise while the pictures go wrong."""

import io
from base64 import b64encode

import numpy as np
import pytest
import requests
from PIL import Image, ImageFilter

from ma_agiqa_client.rewards import Guard, _guard
from ma_agiqa_client.rewards._guard import Cusum
from ma_agiqa_client.rewards._parts import reward_set
from support.pictures import encoded
from support.scripted_server import brightness

RNG = np.random.default_rng(0)


def steps(count: int, **drift: float):
    """Statistics of steps that vary by their standard deviation, and drift from step 20 on."""
    rng = np.random.default_rng(1)
    for number in range(count):
        later = max(0, number - 20)
        yield {
            "reward": 0.5 + 0.02 * rng.normal() + drift.get("reward", 0) * later,
            "detail": 0.1 * rng.normal() + drift.get("detail", 0) * later,
            "diversity": -0.2 + 0.03 * rng.normal(),
        }


@pytest.mark.parametrize("drift", [{}, {"reward": 0.02}, {"detail": 0.1}, {"detail": -0.1}])
def test_what_is_no_alarm(drift):
    """Nothing happens; a trainer that learns; pictures that change while the reward does not."""
    cusum = Cusum()
    for values in steps(200, **drift):
        cusum.add(values)
    assert cusum.alarm_step is None


def test_the_alarm_says_what_went_wrong_and_since_when():
    cusum = Cusum()
    for values in steps(60, reward=0.02, detail=0.1):
        cusum.add(values)
    assert 20 < cusum.alarm_step < 35
    assert 18 < cusum.since_step <= cusum.alarm_step
    assert cusum.suspects == ["detail"]


def photograph(gray: float = 0.0, blur: float = 0.0) -> Image.Image:
    """Colored areas with fine noise."""
    areas = np.kron(RNG.integers(30, 220, (8, 8, 3)), np.ones((8, 8, 1)))
    pixels = (areas + RNG.normal(0, 12, areas.shape)).clip(0, 255)
    pixels += gray * (pixels.mean(2, keepdims=True) - pixels)
    return Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))


@pytest.mark.parametrize(
    ("change", "suspect"), [({"gray": 0.1}, "color"), ({"blur": 0.3}, "detail")]
)
def test_pictures_that_lose_color_or_detail(change, suspect, caplog):
    guard = Guard(None, step_images=8)
    for step in range(30):
        later = max(0, step - 14)
        changed = {name: min(1.0, amount * later) for name, amount in change.items()}
        images = [photograph(**changed) for _ in range(8)]
        guard.watch(images, [0.4 + 0.02 * min(step, 20)] * 8)
        guard.wait()
        if later == 0:
            assert not guard.state()["alarm"]
    assert suspect in guard.state()["suspects"]
    assert guard.state()["alarm_step"] > 15
    assert "while the pictures went wrong" in caplog.text
    assert f'name="{suspect}"' in guard.metrics()
    with Image.open(io.BytesIO(guard.strip_chart())) as chart:
        assert chart.size == (30 * 64, 3 * 64)
        assert (255, 0, 0) in {color for _, color in chart.getcolors(2**24)}


def test_what_has_no_reward_is_left_out():
    guard = Guard(None, step_images=2)
    guard.watch([photograph(), "no picture", photograph(), photograph()], [1.0, 1.0, None, 0.5])
    guard.wait()
    assert guard.cusum.last["reward"] == 0.75
    assert guard.state() == {"step": 1, "alarm": False}


def test_a_long_run_takes_no_more_memory_and_the_alarm_stays_in_its_place(monkeypatch):
    monkeypatch.setattr(_guard, "_MAX_SHOWN", 4)
    guard = Guard(None, step_images=1)
    guard.cusum.alarm_step = 5
    for _ in range(11):
        guard.watch([photograph()], [1.0])
        guard.wait()
    assert [number for number, _, _ in guard._strip] == [0, 4, 8]
    assert len(guard.cusum._first) == 8
    assert guard.state()["step"] == 11
    with Image.open(io.BytesIO(guard.strip_chart())) as chart:
        red = [x for x in range(chart.width) if chart.getpixel((x, 180)) == (255, 0, 0)]
    assert red[1] == 4.5 / 4 * 64


def test_large_pictures_that_wait_are_limited(monkeypatch):
    monkeypatch.setattr(_guard, "_MAX_WAITING_PIXELS", 100)
    monkeypatch.setattr(Guard, "_work", lambda guard: None)
    guard = Guard(None)
    guard.watch([photograph()] * 3, [1.0] * 3)
    assert (guard._waiting.qsize(), guard.skipped) == (1, 2)


def test_the_server_watches(serve, scripted):
    scripted.answer = brightness
    server = serve(guard=True)
    files = [b64encode(encoded(photograph())).decode() for _ in range(32)]
    first = requests.post(server.address, json={"images": files}, timeout=60).json()
    assert first["guard"]["alarm"] is False
    server._guard.wait()
    assert len(scripted.requests) == 32 + 2 * 4  # the pictures, and probes: each in four forms
    assert server._guard.cusum.last["instability"] > 0
    metrics = requests.get(server.address + "/metrics", timeout=60)
    assert "ma_agiqa_reward_guard_alarm 0\n" in metrics.text
    assert "ma_agiqa_reward_guard_steps_total 1\n" in metrics.text
    chart = requests.get(server.address + "/guard.png", timeout=60)
    assert chart.headers["Content-Type"] == "image/png"
    assert requests.get(serve().address + "/metrics", timeout=60).status_code == 404


def test_rewards_that_are_not_the_whole_sum_are_not_watched(serve, scripted, monkeypatch):
    scripted.answer = brightness
    server = serve(guard=True, rewards=reward_set(["mos", "resolution=0"], []))
    watched = []
    monkeypatch.setattr(server._guard, "watch", lambda pictures, rewards: watched.append(rewards))
    turn = {"text": "p", "image_b64": b64encode(encoded(photograph())).decode()}
    for names in (["resolution"], ["mos"], ["mos", "resolution"]):
        one = {"history": [turn], "required_rewards": names, "metadata": None}
        reply = requests.post(server.address + "/score", json={"requests": [one]}, timeout=60)
        assert reply.ok, reply.text
    assert len(watched) == 2
    assert watched[0] == watched[1]
