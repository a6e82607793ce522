"""Measure how often a scorer prefers the less damaged of two versions of your pictures.

No ratings are needed. Each picture is damaged in many ways at several strengths; of each pair of
its versions the weaker damage ought to score higher. 50 % is chance. "reversed" is the share of
pictures whose strongest damage scores no lower than the picture itself. The test sees damage
only: a scorer that passes it may still know nothing about anatomy, taste or the prompt.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.commands._shared import Command
from ma_agiqa.data.degraded import DEGRADATIONS
from ma_agiqa.evaluate.ordering import STRENGTHS, count_pairs, ordering_table, score_versions
from ma_agiqa.evaluate.tables import markdown
from ma_agiqa.files import write_whole
from ma_agiqa.networks.arithmetic import choose_arithmetic
from ma_agiqa.pipeline import ImageScorer

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_DEFAULT_STRENGTHS = ",".join(map(str, STRENGTHS))

_EPILOG = """\b
Examples:
  python -m ma_agiqa ordering --checkpoint training/checkpoints/demo pictures/
  python -m ma_agiqa ordering --checkpoint runs/own --degradations blur,jpeg a.png b.png
"""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@click.argument("pictures", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--checkpoint", required=True, type=click.Path(), help="Checkpoint, as `evaluate` takes it."
)
@click.option("--embedder", help="Source of mPLUG-Owl2. Default: the one of the checkpoint.")
@click.option(
    "--degradations",
    default=",".join(DEGRADATIONS),
    metavar="A,B,...",
    help=f"What to do to the pictures. Default: all, {','.join(DEGRADATIONS)}.",
)
@click.option(
    "--strengths",
    default=_DEFAULT_STRENGTHS,
    metavar="A,B,...",
    help=f"Above 0, at most 1 (ruinous). Default: {_DEFAULT_STRENGTHS}.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False), help="CSV file for the score of each version."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the damage.")
@click.option("--device", help="Where networks run. Default: cuda if there is one, else cpu.")
def main(
    pictures: Sequence[Path],
    checkpoint: str,
    embedder: str | None,
    degradations: str,
    strengths: str,
    output: str | None,
    seed: int,
    device: str | None,
) -> None:
    try:
        numbers = [float(text) for text in strengths.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{strengths!r} are not numbers.") from error
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    scorer = ImageScorer.load(checkpoint, embedder, chosen)
    card, gpu = load_scorer(checkpoint)[1], chosen.startswith("cuda")
    fast = choose_arithmetic(scorer.scorer, "auto", gpu, card.mos_max - card.mos_min)
    score = ImageScorer(scorer.embedder, fast)
    files = list(dict.fromkeys(file for path in pictures for file in _files(path)))
    with click.progressbar(files, file=sys.stderr) as paths:
        scores = score_versions(
            lambda versions: score(versions).score.squeeze(1).cpu().numpy(),
            paths,
            degradations.split(","),
            numbers,
            seed,
        )
    table = ordering_table(count_pairs(scores), seed)
    click.echo(f"{len(files)} pictures\n")
    click.echo(
        markdown(
            [
                {
                    "degradation": row["degradation"],
                    "pairs": str(row["pairs"]),
                    "ordered": f"{row['ordered']:.1%}",
                    "95 % interval": f"{row['low']:.1%} to {row['high']:.1%}",
                    "reversed": f"{row['reversed']:.1%}",
                }
                for row in table.to_dict("records")
            ]
        )
    )
    if output is not None:
        write_whole(output, scores.to_csv(index=False))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
