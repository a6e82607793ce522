"""Measure how well scores agree with people's, on every image of a part.

Scores come from checkpoints, from a served model (--url) or from files of predictions. Without
--config, the data set and the split are those a checkpoint was trained with; with it, the data set
and the split of that file, such as another data set (paper Table 2). The table goes to stdout;
--output also keeps it, with the metrics as JSON and the predictions as CSV.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from ma_agiqa.checkpoints import ModelCard, checkpoint_sha256, load_calibration, load_scorer
from ma_agiqa.commands._shared import (
    Command,
    config_option,
    overrides_option,
    read_config,
    read_overrides,
)
from ma_agiqa.data import PARTS
from ma_agiqa.errors import ConfigError
from ma_agiqa.evaluate.paper_results import METHODS, OURS
from ma_agiqa.evaluate.predictions import align_predictions, build_predictions, read_predictions
from ma_agiqa.evaluate.report import report, require_report_folder, write_report
from ma_agiqa.evaluate.result import Result
from ma_agiqa.evaluate.selection import (
    ALL_PARTS,
    Selection,
    score_selection,
    select_own,
    select_saved,
)
from ma_agiqa.evaluate.served import score_served
from ma_agiqa.metrics.intervals import RESAMPLES
from ma_agiqa.networks.calibration import CalibratedScorer
from ma_agiqa.tensors import GATE_ORDER

_EPILOG = """\b
Examples:
  python -m ma_agiqa evaluate --checkpoint runs/agiqa_3k --output runs/agiqa_3k-evaluation
  python -m ma_agiqa evaluate --checkpoint runs/aigcqa_20k --config training/configs/agiqa_3k.yaml
  python -m ma_agiqa evaluate --checkpoint runs/fold0 --checkpoint runs/fold1
  python -m ma_agiqa evaluate --config training/configs/agiqa_3k.yaml --url localhost:8001
  python -m ma_agiqa evaluate --checkpoint runs/agiqa_3k --predictions MANIQA=maniqa.csv"""


@dataclasses.dataclass(frozen=True)
class _Options:
    """Options of the command line."""

    checkpoints: tuple[Path, ...]
    config_path: str | None
    overrides: tuple[str, ...]
    part: str
    batch_size: int
    device: str | None
    any_dtype: bool
    resamples: int
    seed: int

    def select(self, folder: Path | None = None, card: ModelCard | None = None) -> Selection:
        """The images to score, with the checkpoint in a folder or without one."""
        if self.config_path is not None:
            config = read_config(self.config_path, self.overrides)
            known = (folder, card) if folder is not None and card is not None else None
            return select_own(config, self.part, known)
        if folder is None or card is None:
            raise ConfigError("--url needs --config or --checkpoint, to know the images.")
        if not folder.is_dir():
            raise ConfigError(
                f"{folder} is a checkpoint without a data set: name one with --config, such as "
                "training/configs/agiqa_3k_released.yaml."
            )
        return select_saved(folder, card, self.part, read_overrides(self.overrides))

    def measured(
        self, name: str, frame: pd.DataFrame, selection: Selection | None, **more: Any
    ) -> Result:
        return Result.of(name, frame, selection, resamples=self.resamples, seed=self.seed, **more)


def _evaluate_checkpoints(options: _Options) -> Iterator[Result]:
    """Score with every checkpoint; without --config each on its own data set and split."""
    loaded = [(folder, *load_scorer(folder)) for folder in options.checkpoints]
    names = _distinct([card.name for *_, card in loaded], options.checkpoints)
    for name, (folder, scorer, card) in zip(names, loaded, strict=True):
        selection = options.select(folder, card)
        how = (options.batch_size, options.device, options.any_dtype, sys.stderr.isatty())
        known = load_calibration(folder) if folder.is_dir() else None
        worth = CalibratedScorer(scorer, known[0]) if known else scorer
        frame = score_selection(worth, card, selection, *how)
        full = set(scorer.config.inputs) == set(GATE_ORDER) and scorer.config.fusion == "moe"
        method = OURS if full else None
        yield options.measured(
            name, frame, selection, method=method, trained_on=card.dataset, notes=selection.notes
        )


def _evaluate_served(options: _Options, url: str) -> Result:
    """Score with a served model, on the images of the config or of the one checkpoint."""
    if len(options.checkpoints) > 1:
        raise ConfigError("--url: a server serves one model; give at most one --checkpoint.")
    folder = options.checkpoints[0] if options.checkpoints else None
    selection = options.select(folder, load_scorer(folder)[1] if folder else None)
    table = selection.config.data.csv
    frame, card = score_served(url, selection.members, table, sys.stderr.isatty())
    notes = selection.notes
    if folder and card.checkpoint_sha256 != checkpoint_sha256(folder):
        notes += (f"the server's weights are not those of {folder}, whose images were scored.",)
    return options.measured(
        f"{card.name} at {url}", frame, selection, method=OURS, trained_on=card.dataset, notes=notes
    )


def _evaluate_files(
    options: _Options, files: Sequence[tuple[str, Path]], scored: Sequence[Result]
) -> Iterator[Result]:
    """Measure files of predictions; all must be of the images that were scored, if any were."""
    if scored:
        selection, reference = scored[0].selection, scored[0].frame
        if any(set(r.frame["image"]) != set(reference["image"]) for r in scored):
            raise ConfigError("--predictions: the checkpoints have different images; give one.")
    elif options.config_path is not None:
        selection = options.select()
        reference = build_predictions(selection.members, [0.0] * len(selection.members))
    else:
        selection, reference = None, read_predictions(files[0][1])
    for name, path in files:
        if name in {result.name for result in scored}:
            raise ConfigError(f"--predictions: a checkpoint has the name {name!r}; give another.")
        frame = align_predictions(read_predictions(path), reference, path)
        method = name if name in METHODS else None
        yield options.measured(name, frame, selection, method=method)


def _distinct(names: Sequence[str], folders: Sequence[Path]) -> Sequence[str]:
    """Names of rows: the models' if they differ, else the folders', else their paths."""
    for candidates in (names, [folder.name for folder in folders]):
        if len(set(candidates)) == len(candidates):
            return candidates
    return [str(folder) for folder in folders]


def _named_file(
    _: click.Context, __: click.Parameter, texts: Sequence[str]
) -> list[tuple[str, Path]]:
    """Read NAME=FILE."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, _sign, path) in zip(texts, pairs, strict=True):
        if not name or not path:
            raise click.BadParameter(f"{text!r}; write NAME=FILE, such as MANIQA=maniqa.csv.")
    names = [name for name, *_ in pairs]
    if len(set(names)) < len(names):
        raise click.BadParameter(f"the names {names} must differ.")
    return [(name, Path(path)) for name, _, path in pairs]


predictions_option = click.option(
    "--predictions",
    "files",
    multiple=True,
    callback=_named_file,
    metavar="NAME=FILE",
    help="Measure a CSV file of predictions too; repeatable.",
)
"""`--predictions NAME=FILE`, given as pairs of a name and a path."""

resamples_option = click.option(
    "--resamples",
    default=RESAMPLES,
    show_default=True,
    type=click.IntRange(2),
    help="Number of resamples of the bootstrap that gives the intervals.",
)
"""`--resamples N`."""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Checkpoint folder, or with --config a .pt file of the authors' code; several give a row "
    "each, and mean ± standard deviation.",
)
@config_option(required=False)
@click.option(
    "--part",
    type=click.Choice([*PARTS, ALL_PARTS]),
    default="test",
    show_default=True,
    help="Part of the split to score.",
)
@click.option("--url", metavar="HOST:PORT", help="Score with the model served there.")
@predictions_option
@click.option("--output", metavar="DIR", help="Write report.md, metrics.json, predictions.csv.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1. Default: the GPU if any.")
@click.option(
    "--any-dtype",
    is_flag=True,
    help="Accept embeddings in another dtype (features.dtype) than the scorer was trained with.",
)
@resamples_option
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@overrides_option
def main(
    url: str | None, files: Sequence[tuple[str, Path]], output: str | None, **options: Any
) -> None:
    asked = _Options(**options)
    if not (asked.checkpoints or url or files):
        raise click.UsageError("Give --checkpoint, --url or --predictions; see --help.")
    if output:
        require_report_folder(output)
    results = [_evaluate_served(asked, url)] if url else list(_evaluate_checkpoints(asked))
    results += _evaluate_files(asked, files, results) if files else []
    click.echo(report(results), nl=False)
    if output:
        written = write_report(results, output)
        click.echo(f"Written: {', '.join(map(str, written))}", err=True)
