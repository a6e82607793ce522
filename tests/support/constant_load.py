"""Constant load on a real server with one image; what was scored and what failed."""

from collections import Counter

from exporter.golden import golden_images
from load.generator import ConstantLoad as Generator
from load.generator import Target


class ConstantLoad(Generator):
    """Keeps some requests with the same image in flight while the context is open."""

    def __init__(self, url: str, threads: int = 4):
        super().__init__(Target(url), golden_images()[:1], in_flight=threads)

    @property
    def scores(self) -> list[tuple[float, float]]:
        """Time and score of each image, in the order the scores came."""
        return [(answer.end_s, answer.scores[0]) for answer in self.answers if answer.scores]

    @property
    def failures(self) -> list[tuple[float, str]]:
        """Time of sending, status and message of each failed request."""
        failed = [answer for answer in self.answers if answer.status]
        return [(a.sent_s, f"StatusCode.{a.status} {a.message}") for a in failed]

    @property
    def errors(self) -> list[str]:
        """Status and message of each failed request."""
        return [said for _, said in self.failures]

    def seen(self, digits: int = 4) -> Counter[float]:
        """How often each score was given."""
        return Counter(round(score, digits) for _, score in self.scores)
