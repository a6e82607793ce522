"""The reward server compared with `score_many`, on the same server: a batch of a trainer."""

import base64
import io
import itertools
import json
import pickle
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import click
import numpy as np
from PIL import Image, ImageOps

from load.generator import LoadError
from load.images import encode, read_images
from load.server import connect, images_option, report, repository_option, url_option
from ma_agiqa_client import Scorer
from ma_agiqa_client.rewards._plain_pickle import read_plain_pickle

_Ask = Callable[[], Sequence[float]]

_POLL_S = 0.05
_DIRECT = build_opener(ProxyHandler({}))  # a proxy cannot reach this machine


@contextmanager
def _reward_server(url: str) -> Iterator[str]:
    command = [sys.executable, "-m", "ma_agiqa_client.rewards", "--url", url, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            while not (found := re.search(r"http://\S+", said)):
                said = process.stderr.readline() if process.stderr else ""
                if not said:
                    raise LoadError("The reward server did not start.")
            yield found[0]
        finally:
            process.terminate()


def _post(url: str, body: bytes) -> Any:
    with _DIRECT.open(Request(url, body), timeout=600) as reply:
        data = reply.read()
    return read_plain_pickle(data) if data[:1] == b"\x80" else json.loads(data)


def _enqueue(url: str, body: bytes) -> Any:
    """As cosmos-rl: hand a batch over, and ask for its rewards again and again."""
    key = _post(f"{url}/api/reward/enqueue", body)["uuid"]
    form = urlencode({"uuid": key, "type": "mos"}).encode()
    while True:
        time.sleep(_POLL_S)
        try:
            return _post(f"{url}/api/reward/pull", form)["scores"]["mos"]
        except OSError as error:  # 400: not known yet
            if getattr(error, "code", 0) != 400:
                raise


def _score(scorer: Scorer, images: Sequence[Any]) -> list[float]:
    outcomes = list(scorer.score_many(images))
    if error := next((one.error for one in outcomes if one.error), None):
        raise LoadError(f"score_many did not score an image: {error}")
    return [one.normalized for one in outcomes if not one.error]


def _forms(url: str, pictures: Sequence[Image.Image]) -> Iterator[tuple[str, Sequence[Any], _Ask]]:
    """Yield each form's name, the images for `score_many`, and what asks for their rewards."""
    jpeg = [encode(picture, "JPEG", quality=95) for picture in pictures]
    png = [encode(picture, "PNG") for picture in pictures]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    pickled = pickle.dumps({"images": jpeg})
    text = json.dumps({"image": [base64.b64encode(file).decode() for file in png]}).encode()
    array = io.BytesIO()
    np.save(array, pixels)
    head = {"media_type": "image", "reward_fn": {"mos": 1.0}, "prompts": [""] * len(pictures)}
    raw = json.dumps(head).encode() + b"\n" + array.getvalue()
    yield "JPEG in a pickle", jpeg, lambda: _post(url, pickled)["outputs"]
    yield "PNG in JSON", png, lambda: _post(f"{url}/compute", text)["rewards"]
    yield "raw pixels", pixels, lambda: _enqueue(url, raw)


def _pictures(paths: Sequence[Path], count: int, side: int) -> list[Image.Image]:
    files = itertools.cycle(read_images(paths))
    opened = (Image.open(io.BytesIO(file.data)) for file in itertools.islice(files, count))
    return [ImageOps.fit(picture.convert("RGB"), (side, side)) for picture in opened]


@click.command()
@url_option
@repository_option
@images_option
@click.option("--rounds", default=11, show_default=True, help="Number of rounds to measure.")
@click.option("--batch", "count", default=64, show_default=True, help="Images of a batch.")
@click.option("--side", default=512, show_default=True, help="Side of the images in pixels.")
def rewards(
    url: str | None, repository: Path, paths: tuple[Path, ...], rounds: int, count: int, side: int
) -> None:
    """Compare the reward server with score_many, for a batch of images in three forms.

    The reward server is a process of its own. Both alternate; the last column is the median over
    the rounds of what the reward server takes more.
    """
    with (
        connect(url, repository) as (target, _),
        Scorer(target.url, timeout_s=600) as scorer,
        _reward_server(target.url) as address,
    ):
        for name, images, ask in _forms(address, _pictures(paths, count, side)):
            ways = partial(_score, scorer, images), ask
            times: tuple[list[float], list[float]] = [], []
            for number in range(rounds + 1):
                report(f"{name}: round {number} of {rounds}")
                given: dict[int, Sequence[float]] = {}
                for which in (0, 1) if number % 2 else (1, 0):
                    begin_s = time.perf_counter()
                    given[which] = ways[which]()
                    times[which].extend([time.perf_counter() - begin_s] if number else [])
                ours, theirs = (np.asarray(given[which], float) for which in (0, 1))
                if not np.allclose(ours, theirs, atol=1e-3):
                    raise LoadError(f"{name}: the rewards are others than those of score_many.")
            more = statistics.median(b / a - 1 for a, b in zip(*times, strict=True))
            many_s, rewards_s = map(statistics.median, times)
            click.echo(
                f"{name:18} score_many {many_s:.3f} s   rewards {rewards_s:.3f} s   {more:+.1%}"
            )
