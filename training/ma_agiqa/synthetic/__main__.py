"""Command line: `python -m ma_agiqa.synthetic --output DIR [--seed N]`."""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence

from ma_agiqa.errors import MAAGIQAError
from ma_agiqa.synthetic.build import Recipe, build
from ma_agiqa.synthetic.examples import write_examples

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 after an error that stderr explains."""
    parser = argparse.ArgumentParser(
        prog="python -m ma_agiqa.synthetic",
        description="Write the synthetic data set of the demo model, or the example images.",
        epilog="examples: --output data/synthetic   |   --examples --output examples",
    )
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--examples", action="store_true", help="write the example images instead of a set"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    for field in dataclasses.fields(Recipe):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=int, default=field.default, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    output, workers, examples = (options.pop(k) for k in ("output", "workers", "examples"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        recipe = Recipe(**options)
        written = write_examples(output, recipe) if examples else build(output, recipe, workers)
    except MAAGIQAError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{written}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
