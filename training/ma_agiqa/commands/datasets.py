"""Command line: `python -m ma_agiqa datasets check --config FILE`."""

import sys
from functools import partial

import click

from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.data.check import check
from ma_agiqa.train.feasibility import obstacles

_EPILOG = """\b
Examples:
  python -m ma_agiqa datasets check --config training/configs/agiqa_3k.yaml
  python -m ma_agiqa datasets check --config training/configs/agiqa_3k.yaml \\
      --set split.kind=prompt-disjoint"""


@click.group(help="Check tables of rated images.")
def main() -> None:
    pass


@main.command("check", cls=Command, epilog=_EPILOG)
@config_option()
@overrides_option
@click.pass_context
def check_command(ctx: click.Context, config_path: str, overrides: tuple[str, ...]) -> None:
    """Check a data set before training.

    Reports missing and unreadable files, scores outside their range, duplicates, what the test part
    shares with the others, and what would keep `train` from finishing this run. Exit code 1 when
    there are problems; warnings alone give 0.
    """
    config = read_config(config_path, overrides)
    workers, progress = config.features.workers, sys.stderr.isatty()
    report = check(config.data, config.split, partial(obstacles, config), workers, progress)
    click.echo(report.text())
    click.echo(f"\n{len(report.problems)} problems, {len(report.warnings)} warnings.")
    ctx.exit(1 if report.problems else 0)
