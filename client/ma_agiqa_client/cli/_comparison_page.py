"""The page of `compare --report`: pairs of pictures side by side. It loads nothing."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ma_agiqa_client._programs.console import printable
from ma_agiqa_client._wire.pictures import open_picture
from ma_agiqa_client.cli._difference import Pair
from ma_agiqa_client.cli._report import data_uri
from ma_agiqa_client.cli.output import replacement
from ma_agiqa_client.errors import InvalidImageError

_SIDE = 480


def write_page(path: str, pairs: Sequence[Pair], sentences: Sequence[str]) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file, replaced if it exists.
        pairs: in the order in which they are shown.
        sentences: what was found.

    Raises:
        OSError: it cannot be written.
    """
    template = (files("ma_agiqa_client.cli") / "report_assets" / "comparison.html").read_text(
        "utf-8"
    )
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    shown = "".join(map(_pair, pairs))
    with replacement(path) as draft, open(draft, "w", encoding="utf-8") as file:
        file.write(template.replace("<!--FOUND-->", said).replace("<!--PAIRS-->", shown))


def _pair(pair: Pair) -> str:
    sides = (("base", pair.base, pair.base_mos), ("candidate", pair.candidate, pair.candidate_mos))
    figures = "".join(
        f"<figure>{_picture(path)}<figcaption>{side} <b>{mos:.2f}</b><br>"
        f"<small>{escape(printable(path))}</small></figcaption></figure>"
        for side, path, mos in sides
    )
    return (
        f"<section><h2>{escape(printable(pair.name))} <b>{pair.difference:+.2f}</b></h2>"
        f"<div class=pair>{figures}</div></section>"
    )


def _picture(path: str) -> str:
    try:
        return f'<img alt="" src="{data_uri(open_picture(path, _SIDE, quickly=True))}">'
    except InvalidImageError:
        return '<span class="missing">no preview</span>'
