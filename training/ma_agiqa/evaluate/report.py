"""What an evaluation found: as Markdown for people, as JSON for programs."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ma_agiqa.checkpoints.folder import is_checkpoint
from ma_agiqa.errors import ConfigError
from ma_agiqa.evaluate.measurement import Group, measure_fifths
from ma_agiqa.evaluate.paper_results import (
    AIGCQA_20K,
    DIGITAL_SUBSET_SRCC,
    OURS,
    REPORTED_BY_USERS,
)
from ma_agiqa.evaluate.predictions import write_predictions
from ma_agiqa.evaluate.result import Result, paired_differences
from ma_agiqa.evaluate.tables import (
    METRIC_HEADINGS,
    RAW_HEADINGS,
    coverage_cells,
    difference_text,
    markdown,
    metric_cells,
    number,
    spread,
)
from ma_agiqa.files import json_text, write_whole
from ma_agiqa.metrics.intervals import ENOUGH_IMAGES


def report(results: Sequence[Result]) -> str:
    """Lay out results as Markdown: the main table, then generators, subsets and notes."""
    titles = {result.title: None for result in results}
    heading = next(iter(titles)) if len(titles) == 1 else "evaluation"
    how = results[0].overall.intervals
    parts = [
        f"# {heading[:1].upper()}{heading[1:]}",
        markdown(list(_main_rows(results, titled=len(titles) > 1))),
        f"In brackets: {how.level:.0%} interval, bootstrap over images, or over prompts "
        f"or groups where they are known ({how.resamples:,} resamples, seed {how.seed}). PLCC and "
        "RMSE after a logistic fit with four parameters."
        f"{_small_sets(results)} The fitted PLCC is positive in any direction; PLCC raw has the "
        "sign.",
        "The scores as they are, as a server gives them, in units of MOS; coverage is the share of "
        "the MOS that are in the intervals of their scores:\n\n"
        + markdown(list(_raw_rows(results))),
        _fifths(results),
        _paired(results),
        _group_tables("By generator", [(r.name, r.generators, ()) for r in results]),
        _group_tables("By subset", [(r.name, r.subsets, _paper_subsets(r)) for r in results]),
        "\n".join(f"- {r.name}: {note}" for r in results for note in r.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def require_report_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse the folder of a checkpoint, whose metrics.json is its own.

    Raises:
        ConfigError: it is one.
    """
    if is_checkpoint(folder):
        raise ConfigError(f"{folder} holds a checkpoint: name another folder with --output.")


def write_report(
    results: Sequence[Result], folder: str | os.PathLike[str], predictions: bool = True
) -> list[Path]:
    """Write report.md, metrics.json and the predictions.

    Args:
        results: one writes predictions.csv, several predictions-NAME.csv each.
        folder: is made if it does not exist.
        predictions: whether predictions are written.

    Returns:
        Paths of the files.

    Raises:
        DataError: a file cannot be written.
    """
    folder = Path(folder)
    written: list[Path] = []
    for result in results if predictions else ():
        suffix = "" if len(results) == 1 else "-" + re.sub(r"[^\w.-]+", "_", result.name)
        path = folder / f"predictions{suffix}.csv"
        while path in written:  # of another name that differs in what a file's name cannot have
            path = path.with_name(f"{path.stem}_.csv")
        written.append(write_predictions(result.frame, path))
    texts = {
        "metrics.json": json_text(_document(results)),
        "report.md": report(results),
    }
    for name, text in texts.items():
        written.append(write_whole(folder / name, text))
    return written


def _main_rows(results: Sequence[Result], titled: bool) -> Iterator[Mapping[str, str]]:
    shown: set[str] = set()
    for result in results:
        overall = result.overall
        row = {"scorer": result.name}
        if titled:
            row["data"] = result.title
        row["images"] = f"{overall.metrics.count:,}"
        yield {**row, **metric_cells(overall.metrics, overall.intervals)}
        if result.paper is not None and result.paper[0] not in shown:
            shown.add(result.paper[0])
            yield {"scorer": result.paper[0], **metric_cells(result.paper[1])}
            if result.paper[0] == f"{OURS}, paper Table 1":
                reported = REPORTED_BY_USERS.get(result.tested_on or "", {})
                yield from ({"scorer": n, **metric_cells(m)} for n, m in reported.items())
    yield from _mean_row(results, METRIC_HEADINGS)


def _raw_rows(results: Sequence[Result]) -> Iterator[Mapping[str, str]]:
    for result in results:
        errors = {h: number(getattr(result.overall.metrics, n)) for n, h in RAW_HEADINGS.items()}
        yield {"scorer": result.name, **errors, **coverage_cells(result.overall.coverage)}
    yield from _mean_row(results, {**RAW_HEADINGS, "coverage": "coverage", "width": "width"})


def _mean_row(
    results: Sequence[Result], headings: Mapping[str, str]
) -> Iterator[Mapping[str, str]]:
    """Mean and standard deviation of several checkpoints, such as seeds or folds."""
    if len(runs := _runs(results)) > 1:
        values = {name: found for name, found in _values(runs).items() if name in headings}
        cells = {headings[name]: spread(found) for name, found in values.items()}
        yield {"scorer": f"mean ± standard deviation of {len(runs)} checkpoints", **cells}


def _fifths(results: Sequence[Result]) -> str:
    """Errors, coverage and width of the intervals by fifths of the MOS."""
    rows = []
    for result in results:
        for fifth in measure_fifths(result.frame):
            errors = {h: number(fifth.errors[n]) for n, h in RAW_HEADINGS.items()}
            row = {"scorer": result.name, "MOS": fifth.mos, "images": f"{fifth.count:,}"}
            rows.append({**row, **errors, **coverage_cells(fifth.coverage)})
    return f"## By fifths of MOS\n\n{markdown(rows)}" if rows else ""


def _paired(results: Sequence[Result]) -> str:
    """What each result is better or worse by than the first one, on the same images."""
    headings = {**METRIC_HEADINGS, **RAW_HEADINGS}
    rows = [
        {
            "scorer": f"{name} - {results[0].name}",
            **{headings[n]: difference_text(*d) for n, d in found.items()},
        }
        for name, found in paired_differences(results).items()
    ]
    return f"## Paired differences\n\n{markdown(rows)}" if rows else ""


def _small_sets(results: Sequence[Result]) -> str:
    counts = [result.overall.metrics.count for result in results]
    counts += [group.count for result in results for group in (*result.generators, *result.subsets)]
    if min(counts) >= ENOUGH_IMAGES:
        return ""
    return f" With fewer than {ENOUGH_IMAGES} images the interval of RMSE is too narrow."


def _runs(results: Sequence[Result]) -> list[Result]:
    """The results of checkpoints of one method on the same ratings of one data set.

    Of predictions it is not known what made them.
    """
    runs = [result for result in results if result.trained_on is not None]
    return runs if len({(run.method, run.tested_on, run.ratings) for run in runs}) == 1 else []


def _values(results: Sequence[Result]) -> dict[str, list[float]]:
    """The numbers of each result, by name; of intervals if all results have them."""
    names = (*METRIC_HEADINGS, *RAW_HEADINGS)
    found = {name: [getattr(r.overall.metrics, name) for r in results] for name in names}
    coverages = [r.overall.coverage for r in results if r.overall.coverage]
    if len(coverages) == len(results):
        found["coverage"] = [coverage.share for coverage in coverages]
        found["width"] = [coverage.width for coverage in coverages]
    return found


def _group_tables(
    heading: str,
    groups: Sequence[tuple[str, Sequence[Group], Sequence[Mapping[str, str]]]],
) -> str:
    """One table per result that has groups, under one heading."""
    tables = []
    for name, members, more in groups:
        rows = [*map(_group_row, members), *more]
        if rows:
            title = f"{name}:\n\n" if len(groups) > 1 else ""
            tables.append(title + markdown(rows))
    return "\n\n".join([f"## {heading}", *tables]) if tables else ""


def _group_row(group: Group) -> dict[str, str]:
    row = {"images of": group.name, "images": f"{group.count:,}"}
    if group.measurement is None:
        return {**row, **metric_cells(None)}
    cells = metric_cells(group.measurement.metrics, group.measurement.intervals)
    return {**row, **cells, **coverage_cells(group.measurement.coverage)}


def _paper_subsets(result: Result) -> list[Mapping[str, str]]:
    """The paper's numbers of Fig. 2, where its subset is among ours."""
    wanted = ("digital", "LCM_Pixart")
    subsets = result.selection.config.data.subsets if result.selection else ()
    conditions = [(subset.prompt_contains, subset.generator) for subset in subsets]
    if result.tested_on != AIGCQA_20K or wanted not in conditions:
        return []
    return [
        {
            "images of": f"{method}, paper Fig. 2",
            "images": "10 or 11",
            METRIC_HEADINGS["srcc"]: number(srcc),
        }
        for method, srcc in DIGITAL_SUBSET_SRCC.items()
    ]


def _document(results: Sequence[Result]) -> dict[str, Any]:
    document: dict[str, Any] = {"results": [result.to_dict() for result in results]}
    differences = {
        other: {n: {"difference": value, "interval": ends} for n, (value, ends) in found.items()}
        for other, found in paired_differences(results).items()
    }
    if differences:
        document["differences_from_the_first"] = differences
    if len(runs := _runs(results)) > 1:
        values = _values(runs)
        document["mean"] = {name: float(np.mean(found)) for name, found in values.items()}
        document["standard_deviation"] = {n: float(np.std(v, ddof=1)) for n, v in values.items()}
    return document
