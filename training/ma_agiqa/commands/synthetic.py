"""Command line: write the synthetic data set, see `ma_agiqa.data.synthetic`."""

import dataclasses
from pathlib import Path

import click

from ma_agiqa.commands._shared import Command
from ma_agiqa.data.settings import Recipe
from ma_agiqa.data.synthetic.build import build
from ma_agiqa.data.synthetic.examples import write_examples

_EPILOG = """\b
Examples:
  python -m ma_agiqa synthetic --output data/synthetic
  python -m ma_agiqa synthetic --examples --output examples
"""


def _recipe_options(function):
    for field in reversed(dataclasses.fields(Recipe)):
        name = "--" + field.name.replace("_", "-")
        function = click.option(name, type=int, default=field.default, show_default=True)(function)
    return function


@click.command(cls=Command, epilog=_EPILOG)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.",
)
@click.option("--examples", is_flag=True, help="Write the example images instead of a data set.")
@click.option("--workers", type=int, default=2, show_default=True, help="Number of processes.")
@_recipe_options
def main(output: Path, examples: bool, workers: int, **numbers: int) -> None:
    """Write the synthetic data set of the demo model, or the example images."""
    recipe = Recipe(**numbers)
    click.echo(write_examples(output, recipe) if examples else build(output, recipe, workers))
