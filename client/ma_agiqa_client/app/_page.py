"""The page: what it shows and what it does. `app.py` starts it."""

import asyncio
import io
from bisect import bisect_right
from dataclasses import dataclass

from nicegui import app, events, run, ui

from ma_agiqa_client._core.ordering import order
from ma_agiqa_client._programs.console import printable
from ma_agiqa_client._programs.web_guard import WebGuard
from ma_agiqa_client._wire.images import MAX_IMAGE_BYTES
from ma_agiqa_client._wire.pictures import open_picture
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._report import data_uri
from ma_agiqa_client.cli.maps import LEGEND, lay_over
from ma_agiqa_client.cli.output import is_extrapolation, meaning
from ma_agiqa_client.cli.rows import Row
from ma_agiqa_client.comparison import DISTINCT
from ma_agiqa_client.errors import ClientError, InvalidImageError
from ma_agiqa_client.scorer import Scorer

_MAX_BODY_BYTES = MAX_IMAGE_BYTES + (1 << 20)  # an image and what surrounds it in a form
_AT_A_TIME = 16  # images that are in memory to be scored, of all visitors
_SIDE = 480
_REFRESH_S = 0.3
_RECONNECT_S = 60.0  # a visitor whose network fails for less time keeps the images
_STYLE = """
body { font-feature-settings: "tnum"; }
.results { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 16px; width: 100%; }
.result { padding: 0; overflow: hidden; border-radius: 14px; gap: 0; }
.result .q-img { aspect-ratio: 1; background: #8882; }
.score { position: absolute; left: 8px; bottom: 8px; border-radius: 99px; padding: 1px 10px; color: #fff; font-weight: 650; }
.rank { position: absolute; right: 8px; top: 8px; border-radius: 99px; padding: 0 8px; color: #fff; background: #000a; font-size: 12px; }
.gate { display: flex; gap: 2px; height: 7px; width: 100%; border-radius: 99px; overflow: hidden; }
.semantic { background: #5b6be0; } .coherence { background: #179c8e; } .quality { background: #e0912a; }
.dot { width: 10px; height: 10px; border-radius: 3px; }
.drop { width: 100%; border: 2px dashed #8886; border-radius: 14px; box-shadow: none; }
.drop .q-uploader__list { min-height: 96px; display: grid; place-items: center; }
.drop .q-uploader__list::before { content: "Drop images here"; font-size: 18px; opacity: .7; }
.drop .q-uploader__file { display: none; }
"""  # noqa: E501

_room = asyncio.Semaphore(_AT_A_TIME)


@dataclass(frozen=True)
class _Result:
    """A row, and its picture and map as data URIs; empty if Pillow cannot draw them."""

    row: Row
    picture: str
    map: str


@dataclass(frozen=True)
class _Card:
    """A result on the page; it is sent to the browser once, and afterwards only moved."""

    result: _Result
    element: ui.card
    image: ui.image
    rank: ui.label

    @property
    def key(self) -> tuple[bool, float]:
        """Sort key: better images first, images without a score last."""
        return order(self.result.row.mos)

    def show(self, maps: bool) -> None:
        self.image.set_source(self.result.map if maps else self.result.picture)


def serve(scorer: Scorer, card: ModelCard, *, host: str, port: int) -> None:
    """Serve the page until the process is told to end."""
    app.add_middleware(WebGuard, host=host, max_body_bytes=_MAX_BODY_BYTES, has_pages=True)
    ui.run(
        lambda: _Page(scorer, card),
        host=host,
        port=port,
        title="Image quality",
        dark=None,
        show=False,
        reload=False,
        show_welcome_message=False,
        reconnect_timeout=_RECONNECT_S,
    )


class _Page:
    """One visitor's page: the images dropped on it, and how they are shown."""

    def __init__(self, scorer: Scorer, card: ModelCard) -> None:
        self._scorer = scorer
        self._card = card
        self._fresh: list[_Result] = []
        self._cards: list[_Card] = []
        self._waiting = 0
        self._changed = False
        self._show_maps = False
        self._build()

    def _build(self) -> None:
        ui.add_css(_STYLE)
        with ui.column().classes("w-full max-w-screen-xl mx-auto p-2 sm:p-6 gap-4"):
            ui.label("Which image is best?").classes("text-3xl font-bold")
            ui.label(f"Model {self._card.name}, data set {self._card.dataset}").classes(
                "opacity-70"
            )
            if self._card.note:
                ui.label(self._card.note).classes(
                    "w-full rounded-lg p-3 bg-amber-100 text-amber-900"
                )
            self._upload = (
                ui.upload(
                    label="Or choose them with +",
                    multiple=True,
                    auto_upload=True,
                    max_file_size=MAX_IMAGE_BYTES,
                    on_upload=self._take,
                    on_rejected=lambda: ui.notify("An image can have at most 64 MiB."),
                )
                .props("flat no-thumbnails accept=image/* color=primary")
                .classes("drop")
            )
            self._toolbar()
            self._tie = ui.label().classes("tie")
            self._shown = ui.element("div").classes("results")
            ui.label(meaning(self._card)).classes("text-sm opacity-70")
            ui.label(f"Maps: {LEGEND}; each has its own scale.").classes("text-sm opacity-70")
        ui.timer(_REFRESH_S, self._refresh)

    def _toolbar(self) -> None:
        with ui.row().classes("w-full items-center gap-4"):
            self._status = ui.label("No images yet").classes("text-lg status")
            ui.space()
            for share in ("semantic", "coherence", "quality"):
                with ui.row().classes("items-center gap-1 text-sm"):
                    ui.element("i").classes(f"dot {share}")
                    ui.label(share)
            ui.switch("Maps", on_change=self._toggle_maps)
            ui.button("Clear", on_click=self._clear).props("flat")

    async def _take(self, event: events.UploadEventArguments) -> None:
        """Score one dropped file; a failure is shown in its place."""
        self._waiting += 1
        self._changed = True
        try:
            name = printable(event.file.name)
            async with _room:
                data = await event.file.read()
                result = await run.io_bound(_score, self._scorer, name, data)
            if result:  # None if the process is about to end
                self._fresh.append(result)
        finally:
            self._waiting -= 1
            self._changed = True

    def _refresh(self) -> None:
        """Show new results; many files cause only a few updates of the page."""
        if not self._changed:
            return
        self._changed = False
        fresh, self._fresh = self._fresh, []
        for result in fresh:
            self._place(self._make_card(result))
        for rank, card in enumerate(self._cards, 1):
            card.rank.set_text(f"#{rank}")
        self._tell()
        self._tie.set_text(self._say_tie())

    def _tell(self) -> None:
        done = len(self._cards)
        waiting = f", {self._waiting} in flight" if self._waiting else ""
        images = "image" if done == 1 else "images"
        self._status.text = f"{done} {images}{waiting}" if done or waiting else "No images yet"

    def _say_tie(self) -> str:
        """A sentence if the best two images are not distinguishable, else nothing."""
        calibration = self._card.calibration
        if calibration is None or len(self._cards) < 2:
            return ""
        lead = calibration.lead(*(card.result.row for card in self._cards[:2]))
        if lead is None or lead >= DISTINCT:
            return ""
        return (
            "The best two are not distinguishable: people would rate the first one higher with a "
            f"probability of {lead:.0%}."
        )

    def _place(self, card: _Card) -> None:
        """Move a new card from the end to its rank."""
        rank = bisect_right(self._cards, card.key, key=lambda other: other.key)
        self._cards.insert(rank, card)
        card.element.move(target_index=rank)

    def _toggle_maps(self, event: events.ValueChangeEventArguments[bool | None]) -> None:
        self._show_maps = bool(event.value)
        for card in self._cards:
            card.show(self._show_maps)

    def _clear(self) -> None:
        self._cards.clear()
        self._shown.clear()
        self._upload.reset()
        self._changed = True

    def _make_card(self, result: _Result) -> _Card:
        row = result.row
        with self._shown, ui.card().classes("result") as element:
            with ui.image().classes("w-full") as image:
                if row.mos is not None and row.normalized is not None:
                    badge = ui.label(f"{row.mos:.2f}").classes("score")
                    badge.style(f"background: {_color(row.normalized)}")
                rank = ui.label().classes("rank")
                rank.set_visibility(row.mos is not None)
            with ui.column().classes("w-full p-3 gap-2"):
                name = ui.label(row.image).classes("w-full truncate text-sm font-medium")
                name.tooltip(row.image)
                if row.error:
                    ui.label(row.error).classes("text-sm text-negative")
                else:
                    _facts(row, self._card)
        card = _Card(result, element, image, rank)
        card.show(self._show_maps)
        return card


def _facts(row: Row, card: ModelCard) -> None:
    gate = row.gate
    if gate is None or row.percentile is None:
        return
    facts = [f"better than {row.percentile:.0f} % of the training images"]
    if row.interval is not None and card.calibration is not None:
        low, high = row.interval
        facts.append(f"{card.calibration.level:.0%} interval {low:.2f} to {high:.2f}")
    if is_extrapolation(row, card):
        facts.append("unlike the training images: an extrapolation")
    for fact in facts:
        ui.label(fact).classes("text-xs opacity-70")
    shares = {"semantic": gate.semantic, "coherence": gate.coherence, "quality": gate.quality}
    with ui.element("div").classes("gate"):
        for name, share in shares.items():
            ui.element("i").classes(name).style(f"width: {share:.2%}").tooltip(
                f"{name} {share:.0%}"
            )


def _score(scorer: Scorer, name: str, data: bytes) -> _Result:
    """Score an uploaded file and draw its picture and map. Runs in a separate thread.

    What the server does not score is not opened here either.
    """
    try:
        row = Row.from_score(name, scorer.score(data, maps=True))
    except ClientError as error:
        return _Result(Row(name, error=str(error)), "", "")
    try:
        image = open_picture(io.BytesIO(data), _SIDE, quickly=True)
    except InvalidImageError:
        return _Result(row.without_map(), "", "")
    picture = data_uri(image)
    drawn = picture if row.map is None else data_uri(lay_over(image, row.map))
    return _Result(row.without_map(), picture, drawn)


def _color(normalized: float) -> str:
    """Red to brown to green along the model's scale; dark enough for white text."""
    return f"hsl({8 + 140 * normalized:.0f} 62% 36%)"
