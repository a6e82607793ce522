"""The report: what is in the file, and what a person sees and clicks in a real browser."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from ma_agiqa_client import Gate
from ma_agiqa_client.cli._report import Report, thumbnail_side
from ma_agiqa_client.cli.rows import Row
from support.browser import headless_chromium
from support.example_card import CARD

HOSTILE = "</script><img src=x onerror=document.title=1>"
COUNT = 90  # more than two blocks of pictures


def gate(number):
    return Gate(semantic=0.5 - number / 300, coherence=0.3, quality=0.2 + number / 300)


def rows(folder):
    """COUNT images in two groups, their MOS in an order that is not the file's."""
    rng = np.random.default_rng(3)
    for number in range(COUNT):
        path = folder / f"image_{number:03d}.png"
        Image.new("RGB", (60, 30), (number, 90, 200)).save(path)
        mos = float((number * 37) % COUNT)
        values = (rng.random((4, 4)) * rng.random((4, 4))).astype(np.float32)
        yield Row(
            str(path),
            mos,
            mos / 100,
            mos,
            gate(number),
            "tiny",
            group=("cats", "dogs")[number % 2],
            map=values if number else None,
        )
    damaged = folder / f"{HOSTILE.replace('/', '')}.png"
    damaged.write_bytes(b"no image for Pillow")
    yield Row(str(damaged), 95.0, 0.95, 95.0, gate(0), "tiny", group="cats")
    yield Row(HOSTILE, error=f"Not an image: {HOSTILE}")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    report = Report(str(path), CARD, title=f"A title {HOSTILE}", expected=COUNT)
    (folder / "images").mkdir()
    for row in rows(folder / "images"):
        report.add(row)
    assert not path.exists()  # nothing half-made
    report.finish()
    assert [entry.name for entry in folder.iterdir() if entry.is_file()] == ["report.html"]
    return path


@pytest.fixture(scope="module")
def browser():
    with headless_chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, page_file):
    """The page as it opens; anything it fetches or fails at is an error of the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(page_file.as_uri())
    page.wait_for_selector(".card img")
    yield page
    outside = [url for url in requests if not url.startswith(("data:", page_file.as_uri()))]
    context.close()
    assert (outside, errors) == ([], [])


def names(page):
    shown = page.locator(".card .name").all_text_contents()
    return [re.sub(r"\D", "", name) if name.startswith("image") else name for name in shown]


def scores(page):
    return [float(text) for text in page.locator(".badge").all_text_contents()]


def data_of(path, name):
    text = path.read_text("utf-8")
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)
    return json.loads(found[1])


def test_the_file_holds_every_image_and_loads_nothing(page_file):
    report = data_of(page_file, "report")
    assert len(report["images"]) == COUNT + 1
    assert len(report["failures"]) == 1
    pictures = [data_of(page_file, f"pictures-{block}") for block in range(3)]
    assert [len(block) for block in pictures] == [40, 40, COUNT + 1 - 80]
    first, damaged = pictures[0][0], pictures[2][-1]
    assert first["thumbnail"].startswith("data:image/webp;base64,")
    assert first["size"] == [60, 30]
    assert first["map"] is None
    assert pictures[0][1]["map"]["shape"] == [4, 4]
    assert damaged["thumbnail"] is None
    text = page_file.read_text("utf-8")
    assert "default-src 'none'" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


@pytest.mark.parametrize(("count", "side"), [(1, 640), (2000, 240), (100_000, 160)])
def test_thumbnails_shrink_as_images_grow(count, side):
    assert thumbnail_side(count) == side


def test_text_of_files_cannot_become_part_of_the_page(page):
    assert page.locator("h1").text_content() == f"A title {HOSTILE}"
    assert page.title() == f"A title {HOSTILE}"
    page.locator("#failures summary").click()
    assert HOSTILE in page.locator("#failures li").text_content()
    assert page.locator("img[src=x]").count() == 0


def test_it_opens_with_the_best_first_and_says_what_it_is(page):
    assert scores(page) == sorted(scores(page), reverse=True)
    assert len(scores(page)) == COUNT + 1
    assert page.locator("#count").text_content() == f"{COUNT + 1} images"
    assert page.locator("#note").text_content() == "The demo model."
    assert "model tiny" in page.locator("#facts").text_content()
    assert page.locator("#tiles dd").all_text_contents() == ["45.00", "45.05", "95.00", "0.00"]
    assert "higher is better" in page.locator("#meaning").text_content()
    assert page.locator(".card").first.locator(".missing").text_content() == "no preview"


def test_sorting(page):
    page.select_option("#sort", "worst")
    assert scores(page) == sorted(scores(page))
    page.select_option("#sort", "name")
    assert names(page)[-COUNT:] == [f"{number:03d}" for number in range(COUNT)]
    page.select_option("#sort", "quality")
    assert names(page)[:3] == ["089", "088", "087"]


def test_filters_add_up_and_can_be_taken_back(page):
    page.fill("#search", "IMAGE_01")
    assert len(names(page)) == 10
    page.fill("#from", "20")
    page.fill("#to", "60")
    assert all(20 <= score <= 60 for score in scores(page))
    wanted = [number for number in range(10, 20) if 20 <= (number * 37) % COUNT <= 60]
    assert sorted(names(page)) == [f"{number:03d}" for number in wanted]
    page.select_option("#group", "cats")
    assert len(names(page)) == sum(number % 2 == 0 for number in wanted)
    assert page.locator("#count").text_content().endswith(f"of {COUNT + 1}")
    page.click("#reset")
    assert len(names(page)) == COUNT + 1
    page.fill("#search", "nowhere")
    page.click("#empty-reset")
    assert len(names(page)) == COUNT + 1


def test_dragging_over_the_histogram_keeps_a_range(page):
    box = page.locator("#histogram").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.505 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.74 * box["width"], middle)
    page.mouse.up()
    assert (page.input_value("#from"), page.input_value("#to")) == ("50", "75")
    assert len(scores(page)) == 26  # 50 to 75, both included
    page.locator("#histogram").dblclick()
    assert len(scores(page)) == COUNT + 1


def test_only_pictures_near_the_screen_are_loaded(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("document.querySelectorAll('.card img').length < 30")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    last = page.locator(".card").last.locator("img")
    last.wait_for()
    assert last.evaluate("image => image.decode().then(() => image.naturalWidth)") == 60
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390  # nothing to scroll sideways on a phone


def test_an_image_opens_with_its_map_and_its_neighbors(page):
    page.locator(".card").nth(1).click()
    dialog = page.locator("#detail")
    assert dialog.is_visible()
    assert page.locator("#detail-mos").text_content() == "89.000"
    assert page.locator("#detail-shares").text_content().startswith("semantic")
    canvas = page.locator("#stage canvas")
    assert canvas.evaluate("canvas => canvas.style.opacity") == "0"
    page.locator("#strength").fill("80")
    assert canvas.evaluate("canvas => canvas.style.opacity") == "0.8"
    colors = canvas.evaluate(
        "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
        ".data).size"
    )
    assert colors > 50  # it is drawn
    low, high = page.locator(".legend span").all_text_contents()
    assert 0 <= float(low) < float(high) <= 1
    assert "atch score x patch weight" in page.locator("#detail-legend").text_content()
    page.locator("#next").click()
    assert page.locator("#detail-mos").text_content() == "88.000"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#detail-mos").text_content() == "95.000"
    assert page.locator("#previous").is_disabled()
    assert page.locator("#detail-map").is_hidden()  # it has none
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


def test_maps_over_all_cards(page):
    assert page.locator(".card canvas").count() == 0
    page.check("#maps")
    page.wait_for_selector(".card canvas", state="attached")
    assert page.locator(".card canvas").first.is_visible()
    page.uncheck("#maps")
    assert page.locator(".card canvas").first.is_hidden()


def test_light_and_dark(page):
    def brightness():
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    page.emulate_media(color_scheme="dark")
    dark = brightness()
    page.click("#theme")
    light = brightness()
    assert dark < 150 < 600 < light
    page.click("#theme")
    assert brightness() == dark
