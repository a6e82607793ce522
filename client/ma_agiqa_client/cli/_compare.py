"""`compare`: is a new generator worse than the old one, on the same prompts?"""

import csv
import json
import math
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import click

from ma_agiqa_client._programs.console import Console, printable
from ma_agiqa_client._programs.server_options import (
    HELP_OPTIONS,
    Program,
    ServerOptions,
    server_options,
    timeout_option,
)
from ma_agiqa_client._programs.serving import connect
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli import _command as command
from ma_agiqa_client.cli._batch import check_model
from ma_agiqa_client.cli._comparison_page import write_page
from ma_agiqa_client.cli._difference import (
    LEVEL,
    MIN_CLUSTERS,
    MIN_SEQUENCE,
    Difference,
    Pair,
    Verdict,
)
from ma_agiqa_client.cli._find import Listing
from ma_agiqa_client.cli._options import writable
from ma_agiqa_client.cli._select import Grouping, grouping_option_value
from ma_agiqa_client.errors import InvalidImageError
from ma_agiqa_client.retry import Retry
from ma_agiqa_client.score import Score
from ma_agiqa_client.scorer import Scorer

EXIT_WORSE = 10
EXIT_UNDECIDED = 11

WORST = 20
"""Number of the worst regressions that the report shows."""

_LOOK = 16  # prompts that are scored between two looks of the sequential mode

_EPILOG = """\b
Examples:
  PROGRAM old/ new/
  PROGRAM old/ new/ --margin 0.05 --prompt '(p[0-9]+)_' --report worse.html
  PROGRAM old.csv new.csv --json
  PROGRAM old/ new/ --sequential

\b
BASE and CANDIDATE are folders, or scores that score.py wrote before (.csv, .json, .jsonl), for
which no server is needed. Pictures of the same name, apart from the folder and the extension, are a
pair. A folder named compare is scored as ./compare.

\b
Exit status:
  0    not worse: the whole interval of the difference is above -margin
  10   worse: the whole interval is below -margin
  11   undecided: more pairs are needed, or a larger margin
  1    not worse, but some image has no score
  2    wrong usage, or no pairs
  3    no server that can score, or it went away
  5    a result could not be written
  130  interrupted
"""


@dataclass(frozen=True)
class _Image:
    """A picture to compare: its path, and its MOS if it was scored before, NaN if that failed."""

    path: str
    mos: float | None = None


Images = Mapping[str, _Image]
"""Pictures by name."""

ScoreFiles = Callable[[Iterable[str]], Iterator[tuple[str, float | None]]]
"""Scores files; yields the path and the MOS of each, None for one that has none."""


@dataclass
class _Run:
    """The pairs of a run, as far as they have scores.

    Attributes:
        pairs: pairs with two scores.
        failed: pictures without a score.
    """

    pairs: list[Pair]
    failed: int = 0

    @property
    def worst(self) -> list[Pair]:
        """The pairs whose candidate is worse, by how much: at most `WORST` of them."""
        lost = [pair for pair in self.pairs if pair.difference < 0]
        return sorted(lost, key=lambda pair: pair.difference)[:WORST]


@click.command(cls=Program, epilog=_EPILOG, context_settings=HELP_OPTIONS)
@click.argument("base")
@click.argument("candidate")
@click.option(
    "--margin",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="By how much the mean MOS may be lower, at most.",
)
@click.option(
    "--pair",
    metavar="REGEX",
    callback=grouping_option_value,
    help="What makes two pictures a pair: the same groups of REGEX in their paths.",
)
@click.option(
    "--prompt",
    metavar="REGEX|parent",
    callback=grouping_option_value,
    help="Which pairs are of one prompt, by the path of the base's picture. By default each pair "
    "stands alone; if a prompt has several pictures, the interval is then too narrow.",
)
@click.option(
    "--sequential",
    is_flag=True,
    help="Score prompts in random order and stop when it is decided. The interval is wider, so "
    "that looking again and again finds no difference where there is none.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of resampling and order.")
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")
@click.option(
    "--report",
    metavar="FILE.html",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable,
    help=f"Write a page with the {WORST} worst regressions side by side.",
)
@click.option("--concurrency", type=click.IntRange(min=1), default=32, show_default=True)
@server_options
@timeout_option
def main(**values: Any) -> None:
    """Compare the pictures of two generators on the same prompts: is the new one worse?"""
    server = ServerOptions.take_from(values)
    console = Console()
    (base, base_model), (candidate, candidate_model) = (
        _images(values[name], values["pair"]) for name in ("base", "candidate")
    )
    models = {model for model in (base_model, candidate_model) if model is not None}
    names = [name for name in base if name in candidate]
    alone = len(base) + len(candidate) - 2 * len(names)
    if not names:
        raise click.UsageError(
            f"No picture of {printable(values['base'])} has a partner in "
            f"{printable(values['candidate'])}. Pairs have the same name; --pair REGEX says what "
            "the names have in common."
        )
    if alone:
        console.print(f"Pictures without a partner, which were left out: {alone}.")
    clusters = _clusters(names, base, values["prompt"])
    with command.exit_statuses(console), ExitStack() as stack:
        score: ScoreFiles = _no_scores
        if any(image.mos is None for images in (base, candidate) for image in images.values()):
            scorer, card = stack.enter_context(
                connect(
                    server,
                    timeout_s=values["timeout"],
                    notify=console.print,
                    retry=Retry(budget_s=120.0),
                    pin=True,
                )
            )
            models.add(card.name)
            score = _scoring(scorer, card, console, values["concurrency"])
        if len(models) > 1:
            raise click.UsageError(
                f"The scores are of {len(models)} models ({', '.join(sorted(models))}), which "
                "cannot be compared. Score both sets with one model."
            )
        run, difference = _compare(clusters, base, candidate, score, values)
        verdict = difference.verdict(values["margin"])
        if values["report"]:
            write_page(values["report"], run.worst, _sentences(difference, values, verdict))
        if values["as_json"]:
            click.echo(json.dumps(_record(difference, values, verdict, run, alone), indent=2))
        else:
            click.echo("\n".join(_sentences(difference, values, verdict)))
        status = {"not worse": 0, "worse": EXIT_WORSE, "undecided": EXIT_UNDECIDED}[verdict]
        sys.exit(status or (command.EXIT_BAD_IMAGES if run.failed else 0))


def _compare(
    clusters: Mapping[str, Sequence[str]],
    base: Images,
    candidate: Images,
    score: ScoreFiles,
    values: Mapping[str, Any],
) -> tuple[_Run, Difference]:
    """Score the pictures of every cluster, or of as many as decide."""
    order, sequential = list(clusters), values["sequential"]
    if sequential:
        random.Random(values["seed"]).shuffle(order)
    run, step = _Run([]), _LOOK if sequential else max(len(order), 1)
    difference = None
    for start in range(0, len(order), step):
        now = order[start : start + step]
        wanted = [images[n] for c in now for n in clusters[c] for images in (base, candidate)]
        scored: dict[str, float] = {}
        for path, found in score(image.path for image in wanted if image.mos is None):
            if found is None:
                run.failed += 1
            else:
                scored[path] = found
        for cluster in now:
            for name in clusters[cluster]:
                pair = base[name], candidate[name]  # both may have one path, in two tables
                both = [scored.get(i.path) if i.mos is None else i.mos for i in pair]
                run.failed += sum(mos is not None and math.isnan(mos) for mos in both)
                ours, theirs = both
                if ours is not None and theirs is not None and math.isfinite(ours + theirs):
                    paths = pair[0].path, pair[1].path
                    run.pairs.append(Pair(name, cluster, *paths, ours, theirs))
        if run.pairs:
            difference = Difference.of(run.pairs, sequential=sequential, seed=values["seed"])
            if sequential and difference.verdict(values["margin"]) != "undecided":
                break
    if difference is None:
        raise click.UsageError("No pair has two scores: there is nothing to compare.")
    return run, difference


def _no_scores(paths: Iterable[str]) -> Iterator[tuple[str, float | None]]:
    """Stored scores: there is nothing to score."""
    return iter(())


def _scoring(scorer: Scorer, card: ModelCard, console: Console, concurrency: int) -> ScoreFiles:
    """Make what scores files; it raises errors that do not belong to an image."""

    def score(paths: Iterable[str]) -> Iterator[tuple[str, float | None]]:
        outcomes = scorer.score_many(list(dict.fromkeys(paths)), max_in_flight=concurrency)
        for outcome in outcomes:
            if isinstance(outcome, Score):
                check_model(outcome, card)
                yield outcome.source, outcome.mos
            elif isinstance(outcome.error, InvalidImageError):
                console.failure(outcome.source, outcome.error)
                yield outcome.source, None
            else:
                raise outcome.error

    return score


def _images(source: str, pairing: Grouping | None) -> tuple[Images, str | None]:
    """Find the pictures of a folder, or of a file of scores and their model, by name."""
    paths: dict[str, float | None]
    model = None
    if os.path.isdir(source):
        paths = dict.fromkeys(found.path for found in Listing([source]) if not found.problem)
        root = source
    elif source.lower().endswith((".csv", ".json", ".jsonl", ".ndjson")):
        paths, model = _stored(source)
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    else:
        raise click.UsageError(
            f"{printable(source)} is no folder and no file of scores (.csv, .json, .jsonl)."
        )
    images: dict[str, _Image] = {}
    for path, mos in paths.items():
        name = _name(path, root) if pairing is None else pairing(path)
        if name is None:
            continue
        if name in images:
            raise click.UsageError(
                f"{printable(path)} and {printable(images[name].path)} have the same name "
                f"({printable(name)}). Give --pair a REGEX that tells them apart."
            )
        images[name] = _Image(path, mos)
    return images, model


def _name(path: str, root: str) -> str:
    """The path within a folder, without its extension."""
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
    return os.path.splitext(inside)[0].replace(os.sep, "/")


def _stored(source: str) -> tuple[dict[str, float | None], str]:
    """Read the scores that score.py wrote, by path, and the name of their model."""
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if source.lower().endswith(".csv"):
                records: list[Any] = list(csv.DictReader(file))
            elif source.lower().endswith(".json"):
                records = json.load(file)
            else:
                records = [json.loads(line) for line in file if line.strip()]
        scored = [record for record in records if record["mos"] not in (None, "")]
        models = {str(record["model"]) for record in scored}
        found = {str(record["image"]): float(record["mos"]) for record in scored}
        failed = [str(record["image"]) for record in records if record["mos"] in (None, "")]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise click.UsageError(
            f"{printable(source)} cannot be read as scores: {error}. Give a file that "
            "score.py wrote with --output."
        ) from error
    if len(models) != 1 or not all(map(math.isfinite, found.values())):
        raise click.UsageError(
            f"{printable(source)} has scores of {len(models)} models; expected those of one."
        )
    return {**dict.fromkeys(failed, math.nan), **found}, models.pop()


def _clusters(
    names: Sequence[str], base: Images, prompt: Grouping | None
) -> Mapping[str, Sequence[str]]:
    """The names of the pairs of each prompt."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        cluster = name if prompt is None else prompt(base[name].path)
        if cluster is None:
            raise click.UsageError(
                f"--prompt does not match {printable(base[name].path)}, so it is not known which "
                "prompt it is of."
            )
        found[cluster].append(name)
    return found


def _sentences(difference: Difference, values: Mapping[str, Any], verdict: Verdict) -> list[str]:
    how = "confidence sequence" if values["sequential"] else "bootstrap over prompts"
    count = f"{difference.pairs:,} pairs of {difference.clusters:,} prompts"
    if difference.clusters == difference.pairs:
        count = f"{difference.pairs:,} pairs"
    away = difference.low > 0 or difference.high < 0
    interval = (
        f"{LEVEL:.0%} interval [{difference.low:+.3f}, {difference.high:+.3f}] ({how}), which "
        f"{'excludes' if away else 'includes'} 0."
    )
    if math.isinf(difference.low):
        needed = MIN_SEQUENCE if values["sequential"] else MIN_CLUSTERS
        interval = f"no interval, which needs {needed} prompts."
    conclusion = {
        "not worse": f"Not worse: the mean MOS is not lower by {values['margin']:g} or more.",
        "worse": f"Worse: the mean MOS is lower by more than {values['margin']:g}.",
        "undecided": f"Undecided whether the mean MOS is lower by {values['margin']:g}: more pairs "
        "are needed.",
    }
    return [
        f"{count}. Candidate - base: {difference.mean:+.3f} MOS, {interval}",
        f"The candidate is better in {difference.wins:.0%} of the pairs and worse in "
        f"{difference.losses:.0%}.",
        conclusion[verdict],
    ]


def _record(
    difference: Difference,
    values: Mapping[str, Any],
    verdict: Verdict,
    run: _Run,
    alone: int,
) -> dict[str, Any]:
    """The result for JSON; what is infinite is null."""
    numbers = {
        name: value if math.isfinite(value) else None for name, value in asdict(difference).items()
    }
    return {
        **numbers,
        "level": LEVEL,
        "method": "confidence sequence" if values["sequential"] else "bootstrap-t over clusters",
        "margin": values["margin"],
        "verdict": verdict,
        "different": difference.low > 0 or difference.high < 0,
        "without_score": run.failed,
        "without_partner": alone,
        "worst": [{**asdict(pair), "difference": pair.difference} for pair in run.worst],
    }
