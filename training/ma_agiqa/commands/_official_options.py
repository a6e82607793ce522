"""Options of the benchmarks that run the authors' code beside ours."""

import sys
from pathlib import Path

import click

__all__ = ["official_option", "official_python_option"]

official_option = click.option(
    "--official",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Your checkout of github.com/wangpuyi/MA-AGIQA, to run by turns with ours.",
)

official_python_option = click.option(
    "--official-python",
    default=sys.executable,
    show_default="this one",
    metavar="PYTHON",
    help="Interpreter in which the authors' code runs.",
)
