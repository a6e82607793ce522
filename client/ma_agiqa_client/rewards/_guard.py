"""An alarm for rewards that rise while the pictures go wrong.

A trainer finds what a scorer likes, which need not be what people like. The guard gathers the
images of all requests into steps of a fixed number, and computes of each step

| statistic | wrong is |
| --- | --- |
| instability: mean change of MOS under transforms that people do not see | more |
| diversity: spread of the thumbnails of a step | less |
| detail, color, brightness, contrast | further outside what photographs have |

The first steps are the reference. A one-sided CUSUM test (Page 1954) follows the reward and every
statistic: it adds up by how many standard deviations of the reference a step exceeds its mean, less
an allowance. The alarm is raised once the reward and a statistic have both gone over the limit. It
stays, because a trainer does not come back from there.
"""

import io
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ma_agiqa_client.rewards._measures import colorfulness, sharpness, thumbnail

REWARD = "reward"
_PHOTOGRAPHS = {  # (low, high) of ordinary photographs of at most 512 pixels per side
    "detail": (-1.3, -0.7),
    "color": (1.3, 1.95),
    "brightness": (0.2, 0.65),
    "contrast": (0.1, 0.32),
}
_LEAST_SPREAD = {  # standard deviations that are not believed to be smaller
    REWARD: 0.01,
    "instability": 0.005,
    "diversity": 0.02,
    **dict.fromkeys(_PHOTOGRAPHS, 0.05),
}
_REFERENCE = 8  # first steps that later ones are compared with
_ALLOWANCE, _LARGEST_TERM, _LIMIT = 1.0, 4.0, 8.0  # standard deviations
_SIDE, _CELL, _MAX_SHOWN = 512, 64, 200
_MAX_WAITING = 256  # images, about 200 MB of 512 x 512 pixels
_MAX_WAITING_PIXELS = 2**28  # of these images together, 800 MB

Score = Callable[[Sequence[Any]], Sequence[float | None]]

logger = logging.getLogger(__name__)


@dataclass
class _Step:
    """The images of a step so far: their rewards, and statistics by name."""

    rewards: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    thumbnails: list[Any] = field(default_factory=list)
    picture: Image.Image | None = None


class Cusum:
    """The tests of one run: what is followed, from the means of its steps."""

    def __init__(self) -> None:
        self.count = 0
        self.last: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.alarm_step: int | None = None
        self.since_step: int | None = None
        self.suspects: list[str] = []
        self._first: list[dict[str, float]] = []
        self._left_zero: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        """Take the statistics of the next step; the larger, the worse, but for the reward."""
        self.count += 1
        self.last, number = values, self.count
        if number <= _REFERENCE:
            self._first.append(values)
            return
        for name, value in values.items():
            first = [step[name] for step in self._first if name in step]
            if len(first) < 2:
                continue
            spread = max(float(np.std(first, ddof=1)), _LEAST_SPREAD[name])
            term = min((value - float(np.mean(first))) / spread, _LARGEST_TERM)
            before = self.sums.get(name, 0.0)
            self.sums[name] = max(0.0, before + term - _ALLOWANCE)
            if not before and self.sums[name]:
                self._left_zero[name] = number
        over = [name for name, total in self.sums.items() if total > _LIMIT]
        if self.alarm_step is None and REWARD in over and len(over) > 1:
            self.alarm_step = number
            self.since_step = min(self._left_zero[name] for name in over if name != REWARD)
        if self.alarm_step is not None:
            new = [name for name in over if name not in (REWARD, *self.suspects)]
            self.suspects.extend(new)


class Guard:
    """Watches images and their rewards, on a thread of its own.

    Attributes:
        cusum: the tests, with the number of steps so far and the statistics of the last one.
        skipped: number of images that were left out because too many waited.
    """

    def __init__(self, score: Score | None, *, step_images: int = 32, probes: int = 2) -> None:
        """Start the thread.

        Args:
            score: gives the MOS rewards of Pillow images or files, None for one without; None to
                leave out the instability.
            step_images: number of images that make a step.
            probes: number of images of each step that are scored again under three transforms.
        """
        self._score = score
        self._step_images = step_images
        self._probes = probes
        self._waiting: queue.Queue[tuple[Image.Image, float]] = queue.Queue(_MAX_WAITING)
        self._step = _Step()
        self._strip: list[tuple[int, Image.Image, float]] = []
        self._every = 1
        self.cusum = Cusum()
        self.skipped = 0
        threading.Thread(target=self._work, name="guard", daemon=True).start()

    def watch(self, pictures: Iterable[Any], rewards: Sequence[float | None]) -> None:
        """Take images and their rewards, as a trainer gets them.

        Args:
            pictures: Pillow images of mode RGB; anything else is left out.
            rewards: None for an image without one, which is left out.
        """
        for picture, reward in zip(pictures, rewards, strict=True):
            if isinstance(picture, Image.Image) and reward is not None:
                pixels = sum(one.width * one.height for one, _ in list(self._waiting.queue))
                try:
                    if pixels > _MAX_WAITING_PIXELS:
                        raise queue.Full
                    self._waiting.put_nowait((picture, reward))
                except queue.Full:
                    self.skipped += 1

    def wait(self) -> None:
        """Wait until all images that were taken are judged."""
        self._waiting.join()

    def state(self) -> dict[str, Any]:
        """Return what the answers say: the step, and if there is an alarm, since when and why."""
        alarm = self.cusum.alarm_step
        state: dict[str, Any] = {"step": self.cusum.count, "alarm": alarm is not None}
        if alarm is not None:
            state |= {"alarm_step": alarm, "since_step": self.cusum.since_step}
            state["suspects"] = self.cusum.suspects
        return state

    def metrics(self) -> str:
        """Return the same, with all statistics, in Prometheus' text format."""
        last = self.cusum.last
        lines = [
            "# TYPE ma_agiqa_reward_guard_alarm gauge",
            f"ma_agiqa_reward_guard_alarm {int(self.cusum.alarm_step is not None)}",
            "# TYPE ma_agiqa_reward_guard_steps_total counter",
            f"ma_agiqa_reward_guard_steps_total {self.cusum.count}",
            "# TYPE ma_agiqa_reward_guard_skipped_images_total counter",
            f"ma_agiqa_reward_guard_skipped_images_total {self.skipped}",
            "# TYPE ma_agiqa_reward_guard_statistic gauge",
            *(f'ma_agiqa_reward_guard_statistic{{name="{n}"}} {v}' for n, v in last.items()),
            "# TYPE ma_agiqa_reward_guard_cusum gauge",
            *(f'ma_agiqa_reward_guard_cusum{{name="{n}"}} {v}' for n, v in self.cusum.sums.items()),
        ]
        return "\n".join(lines) + "\n"

    def strip_chart(self) -> bytes:
        """Return a PNG: one picture of each step, the reward above, the alarm as a red line.

        Of many steps, one of two, four and so on is shown.
        """
        shown = self._strip[:]
        every = shown[1][0] - shown[0][0] if len(shown) > 1 else 1
        width = max(1, len(shown)) * _CELL
        chart = Image.new("RGB", (width, 3 * _CELL), "white")
        draw = ImageDraw.Draw(chart)
        rewards = [reward for _, _, reward in shown]
        low, high = min(rewards, default=0.0), max(rewards, default=1.0)
        points = [
            ((i + 0.5) * _CELL, _CELL * (1.8 - 1.6 * (reward - low) / ((high - low) or 1)))
            for i, (_, _, reward) in enumerate(shown)
        ]
        for i, (_, picture, _) in enumerate(shown):
            chart.paste(picture, (i * _CELL, 2 * _CELL))
        if len(points) > 1:
            draw.line(points, "black", 2)
        draw.text((2, 2), f"reward {low:.3f} to {high:.3f}, {self.cusum.count} steps", "black")
        if self.cusum.alarm_step is not None:
            x = (self.cusum.alarm_step - 0.5) / every * _CELL
            draw.line([(x, 0), (x, 3 * _CELL)], "red", 3)
        file = io.BytesIO()
        chart.save(file, "PNG")
        return file.getvalue()

    def _work(self) -> None:
        while True:
            picture, reward = self._waiting.get()
            try:
                self._take(picture, reward)
            except Exception:
                logger.exception("The guard could not judge an image.")
            finally:
                self._waiting.task_done()

    def _take(self, picture: Image.Image, reward: float) -> None:
        step = self._step
        step.rewards.append(reward)
        for name, value in _statistics(picture).items():
            step.values.setdefault(name, []).append(value)
        step.thumbnails.append(thumbnail(picture, 8))
        step.picture = step.picture or picture
        if self._score and len(step.rewards) <= self._probes:
            scores = list(self._score([picture, *_unseen(picture)]))
            if None not in scores:
                known = [one for one in scores if one is not None]
                change = [abs(one - known[0]) for one in known[1:]]
                step.values.setdefault("instability", []).append(float(np.mean(change)))
        if len(step.rewards) == self._step_images:
            self._finish(step)
            self._step = _Step()

    def _finish(self, step: _Step) -> None:
        values = {name: float(np.mean(values)) for name, values in step.values.items()}
        for name, (low, high) in _PHOTOGRAPHS.items():
            values[name] = max(low - values[name], values[name] - high, 0.0) / (high - low)
        values["diversity"] = -float(np.std(step.thumbnails, axis=0).mean())
        values[REWARD] = float(np.mean(step.rewards))
        number, before = self.cusum.count, self.cusum.alarm_step
        self.cusum.add(values)
        if step.picture is not None and number % self._every == 0:
            self._strip.append((number, step.picture.resize((_CELL, _CELL)), values[REWARD]))
        if len(self._strip) > _MAX_SHOWN:
            self._strip, self._every = self._strip[::2], 2 * self._every
        if before is None and self.cusum.alarm_step is not None:
            logger.warning(
                "The reward has risen while the pictures went wrong (%s), since step %s of %s "
                "images. Look at GET /guard.png, and at the latest pictures.",
                ", ".join(self.cusum.suspects),
                self.cusum.since_step,
                self._step_images,
            )


def _statistics(picture: Image.Image) -> dict[str, float]:
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    luma = np.asarray(small.convert("L"), np.float32) / 255
    return {
        "detail": math.log10(sharpness(small) + 1e-4),
        "color": math.log10(colorfulness(small) + 1),
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
    }


def _unseen(picture: Image.Image) -> list[Any]:
    """Return the picture slightly smaller, as JPEG of quality 92, and shifted by a pixel."""
    width, height = picture.size
    smaller = picture.resize((max(1, round(width * 0.98)), max(1, round(height * 0.98))))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    box = (min(1, width - 1), min(1, height - 1), width, height)
    return [smaller, file.getvalue(), picture.crop(box)]
