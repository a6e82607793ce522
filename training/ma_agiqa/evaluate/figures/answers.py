"""What the LMM answers to the paper's two questions about images (paper Fig. 5)."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ma_agiqa.evaluate.figures.style import WIDTH_INCHES, styled, thumbnail
from ma_agiqa.images.views import RGB

_CHARACTERS = 62  # of a line of text next to an image
_LINE_INCHES, _LEAST_INCHES = 0.19, 2.4


def draw_answers(answered: Sequence[tuple[RGB, Mapping[str, str]]]) -> Figure:
    """Draw each image with the questions and answers to its right.

    Args:
        answered: pixels uint8 (H, W, 3), RGB, and the answers by question, for each image.
    """
    texts = ["\n\n".join(_paragraphs(answers)) for _, answers in answered]
    heights = [max(_LEAST_INCHES, _LINE_INCHES * (text.count("\n") + 2)) for text in texts]
    with styled():
        figure = Figure((WIDTH_INCHES, sum(heights)), layout="constrained")
        grid = figure.subplots(
            len(texts), 2, squeeze=False, width_ratios=(1, 2), height_ratios=heights
        )
        for (left, right), (rgb, _), text in zip(grid, answered, texts, strict=True):
            left.imshow(thumbnail(rgb))
            right.text(0, 1, text, va="top", fontsize=9, transform=right.transAxes)
            left.axis("off")
            right.axis("off")
    return figure


def _paragraphs(answers: Mapping[str, str]) -> list[str]:
    pairs = [f"{question}\n→ {answer}" for question, answer in answers.items()]
    return ["\n".join(textwrap.fill(line, _CHARACTERS) for line in p.splitlines()) for p in pairs]
