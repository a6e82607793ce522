"""Benchmarks and load tests of a served model: `python deploy/load/bench.py --help`."""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from load.overload import overload
from load.rewards import rewards
from load.served import served
from load.soak import soak
from load.throughput import throughput


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure a served model; without --url, the embedded server is started for it."""


for command in (overload, rewards, served, soak, throughput):
    main.add_command(command)

if __name__ == "__main__":
    main()
