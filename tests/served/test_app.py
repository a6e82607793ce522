"""The page for people against a real Triton: images are dropped and seen ranked."""

from pathlib import Path

import pytest

from ma_agiqa_client import Scorer
from support.browser import colors_on
from support.page_process import open_page, running_page

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.jpg"))


def test_dropped_images_are_ranked_as_the_server_scores_them(stand_in, tmp_path):
    with Scorer(stand_in.grpc_url) as scorer:
        ranked = scorer.rank(EXAMPLES)
        note = scorer.model().note
    with running_page(stand_in.grpc_url, tmp_path) as address, open_page(address) as page:
        page.set_input_files("input[type=file]", EXAMPLES)
        done = f"document.querySelector('.status').textContent == '{len(EXAMPLES)} images'"
        page.wait_for_function(done)
        shown = page.locator(".result .score").all_text_contents()
        assert [float(text) for text in shown] == pytest.approx(
            [score.mos for score in ranked], abs=0.006
        )
        best = page.locator(".result .truncate").first.text_content()
        assert best == ranked[0].source.name
        assert note in page.locator("body").text_content()
        pictures = "[...document.querySelectorAll('.result img')]"
        there = "image.naturalWidth > 100 && getComputedStyle(image).opacity == 1"
        drawn = f"{pictures}.length == {len(EXAMPLES)} && {pictures}.every(image => {there})"
        page.wait_for_function(drawn)
        assert colors_on(page, tmp_path / "pictures.png") > 1000
        before = page.locator(".result img").first.get_attribute("src")
        page.get_by_role("switch", name="Maps").click()
        changed = f"document.querySelector('.result img').src != {before!r}"
        page.wait_for_function(f"{changed} && {drawn}")
        assert colors_on(page, tmp_path / "maps.png") > 1000
