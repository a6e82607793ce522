"""Load on the served ensemble, like that of its users. `make load` runs it; README.md says more.

Three kinds of users, whose shares --generation-servers, --batch-jobs and --people set:

    GenerationServer  a burst of images for every prompt, then a pause until the next prompt
    BatchJob          always the same number of images in flight
    Person            one file of any size and format, then some seconds of looking; now and then
                      a file that is no image, which has to be refused as such
"""

import functools
import itertools
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
import grpc.experimental.gevent as grpc_gevent
from locust import User, between, constant_pacing, events, task
from locust.env import Environment

grpc_gevent.init_gevent()  # before the first channel: else every call blocks all users

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from load.generator import WRONG, Answer, Target  # noqa: E402
from load.images import FORMATS, LoadImage, make_images, read_images  # noqa: E402
from load.report import Limit, broken_limits, error_table, latency_table  # noqa: E402

SAME_SCORE_TOLERANCE = 0.01  # of MOS: an image may be batched with others each time
NOT_AN_IMAGE = LoadImage("no image", b"This is not an image.")


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add our arguments to locust's; those of the parser itself are fields of the web page."""
    add = parser.add_argument
    add("--images-per-prompt", type=int, default=8, help="Images in a generation server's burst.")
    add("--prompt-seconds", type=float, default=2.0, help="Time from one burst to the next.")
    add("--job-width", type=int, default=16, help="Images in flight in a batch job.")
    add("--sizes", default="512,1024", help="Sides of the images in pixels.")
    add("--formats", default="jpeg,png,webp", help=f"Formats: {', '.join(FORMATS)}.")
    add("--image-folder", default="", help="Send these files instead.")
    add("--deadline-seconds", type=float, default=10.0, help="Deadline of every request.")
    add = parser.add_argument_group("limits and shares").add_argument
    add("--max-p95-ms", type=float, default=None, help="Fail if the p95 is higher.")
    add("--max-p99-ms", type=float, default=None, help="Fail if the p99 is higher.")
    add("--max-error-rate", type=float, default=0.0, help="Fail if more requests fail (0..1).")
    add("--min-images-per-s", type=float, default=None, help="Fail if fewer are scored.")
    for name in ("generation-servers", "batch-jobs", "people"):
        add(f"--{name}", type=int, default=1, help=f"Share of {name.replace('-', ' ')}.")


_connect = functools.cache(Target)  # never closed: under gevent that can block for good


class Ensemble:
    """The one channel of this process to a server, the images, and the scores seen so far."""

    def __init__(self, environment: Environment) -> None:
        options: Any = environment.parsed_options
        self._target = _connect((environment.host or "localhost:8001").removeprefix("grpc://"))
        self._fire = environment.events.request.fire
        self._deadline_s = options.deadline_seconds
        self._scores: dict[bytes, float] = {}
        folder = options.image_folder
        sizes = [int(size) for size in options.sizes.split(",")]
        self.images = (
            read_images([Path(folder)])
            if folder
            else make_images(sizes, options.formats.split(","))
        )

    def score(self, user: str, image: LoadImage) -> None:
        """Send one image, check the answer, and tell locust."""
        (request,) = self._target.requests([image.data])
        answer = self._target.infer(request, self._deadline_s, timeout_s=self._deadline_s)
        error = self._error(image, answer)
        self._fire(
            request_type="gRPC",
            name=f"{user}, {image.kind}",
            response_time=answer.seconds * 1000,
            response_length=len(image.data),
            exception=RuntimeError(error) if error else None,
            context={},
        )

    def _error(self, image: LoadImage, answer: Answer) -> str | None:
        if image is NOT_AN_IMAGE and answer.status == "INVALID_ARGUMENT":
            return None
        if answer.status:
            # Without its numbers, so that errors of a kind are counted together.
            return f"{answer.status}: {re.sub(r'[0-9.]*[0-9]', 'N', answer.message)}"
        (mos,) = answer.scores
        first = self._scores.setdefault(image.data, mos)
        if image is NOT_AN_IMAGE or abs(mos - first) > SAME_SCORE_TOLERANCE:
            return f"{WRONG}: {image.kind} has score {mos}, and before {first}"
        return None


_ensembles: dict[int, Ensemble] = {}


class _EnsembleUser(User):
    abstract = True

    def on_start(self) -> None:
        """Share the channel and the images of this process."""
        key = id(self.environment)
        if key not in _ensembles:
            _ensembles[key] = Ensemble(self.environment)
        self.ensemble = _ensembles[key]
        self.options: Any = self.environment.parsed_options


class GenerationServer(_EnsembleUser):
    """Scores the images of a prompt as soon as they are made."""

    def on_start(self) -> None:
        """Begin at any time: servers do not wait for one another."""
        super().on_start()
        gevent.sleep(random.uniform(0, self.options.prompt_seconds))

    def wait_time(self) -> float:
        """Prompts come at a steady rate, however long the burst took."""
        pace: Callable[[User], float] = constant_pacing(self.options.prompt_seconds)
        return pace(self)

    @task
    def prompt(self) -> None:
        """Send a burst of one size and format and wait for all of it."""
        kind = random.choice(self.ensemble.images).kind
        images = [image for image in self.ensemble.images if image.kind == kind]
        burst = itertools.islice(itertools.cycle(images), self.options.images_per_prompt)
        jobs = [gevent.spawn(self.ensemble.score, "generation", image) for image in burst]
        gevent.joinall(jobs, raise_error=True)


class BatchJob(_EnsembleUser):
    """Scores a large set, many images at once."""

    @task
    def chunk(self) -> None:
        """Send ten times the width, that many at once."""
        pool = gevent.pool.Pool(self.options.job_width)
        for _ in range(10 * self.options.job_width):
            image = random.choice(self.ensemble.images)
            pool.spawn(self.ensemble.score, "batch", image)
        pool.join(raise_error=True)


class Person(_EnsembleUser):
    """Tries single files."""

    wait_time = between(1, 5)

    @task(20)
    def look(self) -> None:
        """Send any file."""
        self.ensemble.score("person", random.choice(self.ensemble.images))

    @task(1)
    def mistake(self) -> None:
        """Send what is no image."""
        self.ensemble.score("person", NOT_AN_IMAGE)


@events.test_start.add_listener
def make_images_again(**_: Any) -> None:
    """Follow the form of the web page, whose options may be others in each run."""
    _ensembles.clear()


@events.init.add_listener
def set_shares(environment: Environment, **_: Any) -> None:
    """Take the shares of the kinds of users from the command line."""
    options: Any = environment.parsed_options
    shares = {
        GenerationServer: options.generation_servers,
        BatchJob: options.batch_jobs,
        Person: options.people,
    }
    for user, share in shares.items():
        user.weight = share
    environment.user_classes = [user for user in environment.user_classes if user.weight]


@events.quitting.add_listener
def report(environment: Environment, **_: Any) -> None:
    """Print the table and fail past the limits; not in workers, whose master does."""
    options: Any = environment.parsed_options
    if options.worker:
        return
    stats = environment.stats
    print(latency_table(stats))  # noqa: T201
    if errors := error_table(stats.errors):
        print(f"\nerrors\n{errors}")  # noqa: T201
    total = stats.total
    scored_per_s = total.total_rps * (1 - total.fail_ratio)
    limits = (
        Limit("requests", total.num_requests, 1, at_most=False),
        Limit("p95 ms", total.get_response_time_percentile(0.95), options.max_p95_ms),
        Limit("p99 ms", total.get_response_time_percentile(0.99), options.max_p99_ms),
        Limit("share of errors", total.fail_ratio, options.max_error_rate),
        Limit("images/s", scored_per_s, options.min_images_per_s, at_most=False),
    )
    broken = broken_limits(limits)
    for sentence in broken:
        print(f"FAILED  {sentence}")  # noqa: T201
    environment.process_exit_code = 1 if broken else 0
