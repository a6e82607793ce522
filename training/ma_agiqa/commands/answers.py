"""Draw what mPLUG-Owl2 answers to the paper's two questions about images (paper Fig. 5).

The answers also go to stdout. A served model answers with `client/score.py --explain`.
"""

from pathlib import Path

import click
import torch

from ma_agiqa.commands._shared import Command
from ma_agiqa.errors import DataError
from ma_agiqa.evaluate.figures.answers import draw_answers
from ma_agiqa.evaluate.figures.style import FORMATS, save
from ma_agiqa.images.views import decode, semantic_view
from ma_agiqa.lmm.answers import Answerer, language_head
from ma_agiqa.lmm.sources import DTYPES, PAPER_EMBEDDER, build_embedder
from ma_agiqa.lmm.tokenizer import MAX_ANSWER_TOKENS, QUESTIONS, Tokenizer

_EPILOG = """\b
Examples:
  python -m ma_agiqa answers --output fig5.png a.png b.png
  python -m ma_agiqa answers --embedder weights/mplug-owl2-llama2-7b --device cuda \\
      --dtype float16 --output fig5.pdf a.png"""


@click.command(cls=Command, help=__doc__, epilog=_EPILOG)
@click.argument(
    "images",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--embedder",
    default=PAPER_EMBEDDER,
    show_default=True,
    metavar="SOURCE",
    help="Hub id or folder of mPLUG-Owl2.",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True)
@click.option("--device", default="cpu", show_default=True, metavar="NAME")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The figure; its name ends in {' or '.join(f'.{kind}' for kind in FORMATS)}.",
)
def main(images: tuple[Path, ...], embedder: str, dtype: str, device: str, output: Path) -> None:
    if output.suffix[1:] not in FORMATS:
        raise click.UsageError(f"--output {output}: give a name that ends in {FORMATS}.")
    tokenizer = Tokenizer.of_checkpoint(embedder)
    loaded = build_embedder(embedder, device, dtype)
    answerer = Answerer(loaded, language_head(embedder, loaded.model))
    answered = []
    for path in images:
        try:
            rgb = decode(path.read_bytes())
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from error
        view = torch.from_numpy(semantic_view(rgb, loaded.image_size))
        click.echo(path)
        answers = {}
        for question in QUESTIONS.values():
            answers[question] = _answer(answerer, tokenizer, view, question)
            click.echo(f"  {question}\n  {answers[question]}")
        answered.append((rgb, answers))
    click.echo(save(draw_answers(answered), output))


def _answer(answerer: Answerer, tokenizer: Tokenizer, view: torch.Tensor, question: str) -> str:
    """The answer to a question about a view, uint8 (S, S, 3)."""
    ids = tokenizer.prompt(question)
    answer: list[int] = []
    while len(answer) < MAX_ANSWER_TOKENS:
        token = answerer.next_token(view, [*ids, *answer])
        if token == tokenizer.end_id:
            break
        answer.append(token)
    return tokenizer.text(answer).strip()
