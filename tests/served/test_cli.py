"""The command line against a real Triton: a page, kills, and a server of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ma_agiqa_client._programs.embedded import DEFAULT_URL, listens
from support.browser import colors_on, headless_chromium
from support.pictures import picture

ROOT = Path(__file__).resolve().parents[2]
COUNT = 120  # images in a run; slow_server takes over two seconds for them


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """COUNT images, made once."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(COUNT):
        path = folder / f"prompt_{seed % 8}" / f"{seed:04d}.{('png', 'jpg', 'webp')[seed % 3]}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(seed)).save(path)
    return folder


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Run client/score.py in a process of its own."""
    command = [sys.executable, str(ROOT / "client" / "score.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(path: Path, count: int, process: "subprocess.Popen[str]") -> None:
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def scores(text: str) -> list[tuple[str, float]]:
    return [(row["image"], row["mos"]) for row in records(text)]


def test_tags_are_in_the_files_and_change_no_score(stand_in, score_py, tmp_path):
    for name in ("coffee_blur.jpg", "cat_jpeg.jpg"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    command = (tmp_path, "--url", stand_in.grpc_url, "--format", "json")
    before = json.loads(score_py(*command).stdout)
    tagged = score_py(*command, "--tag")
    assert tagged.exit_code == 0, tagged.stderr
    for row in before["results"] if isinstance(before, dict) else before:
        with Image.open(row["image"]) as image:
            assert f'ma_agiqa:mos="{row["mos"]}"'.encode() in image.info["xmp"]
    assert json.loads(score_py(*command).stdout) == before
    assert score_py(*command, "--tag", "--resume", tmp_path / "done.jsonl").exit_code == 2


def test_examples_become_a_page_that_shows_pictures_and_maps(stand_in, score_py, tmp_path):
    path = tmp_path / "report.html"
    maps = tmp_path / "maps"
    examples = ROOT / "examples"
    done = score_py(examples, "--url", stand_in.grpc_url, "--report", path, "--maps", maps)
    assert done.exit_code == 0, done.stderr
    count = len(list(examples.glob("*.jpg")))
    assert len(list(maps.rglob("*.map.jpg"))) == count
    with headless_chromium() as browser:
        page = browser.new_page()
        page.goto(path.as_uri())
        page.check("#maps")
        page.wait_for_selector(".card canvas")
        assert page.locator(".card").count() == count
        first = page.locator(".card").first
        assert Path(done.stdout.splitlines()[1].split()[0]).name in first.text_content()
        assert first.locator("img").evaluate("image => image.naturalWidth") > 100
        first.click()
        high = page.locator("#high").text_content()
        assert float(high) > float(page.locator("#low").text_content())
        page.keyboard.press("Escape")
        assert colors_on(page, tmp_path / "report.png") > 1000  # photographs and maps


def test_a_run_killed_twice_ends_as_an_uninterrupted_one(slow_server, score_py, many, tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    arguments = (many, "--url", slow_server.grpc_url, "--format", "jsonl", "--resume")
    uninterrupted = score_py(*arguments, whole)
    assert uninterrupted.exit_code == 0, uninterrupted.stderr
    for lines in (COUNT // 4, COUNT // 2):
        process = start(*arguments, killed)
        wait_for_lines(killed, lines, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    os.truncate(killed, killed.stat().st_size - 20)  # as if it was killed within a write
    kept = killed.read_bytes().count(b"\n")
    assert COUNT // 2 - 1 <= kept < COUNT
    last = score_py(*arguments, killed)
    assert last.exit_code == 0, last.stderr
    assert f"{kept} of {COUNT} images were scored earlier." in last.stderr
    assert len(records(killed.read_text("ascii"))) == COUNT
    assert scores(killed.read_text("ascii")) == scores(whole.read_text("ascii"))
    assert scores(last.stdout) == scores(uninterrupted.stdout)


@pytest.mark.xdist_group("default_port")
def test_without_an_address_a_server_is_started_and_stopped(score_py, many):
    """The shipped model's, as in the README's first command."""
    if listens(DEFAULT_URL):
        pytest.skip(f"needs {DEFAULT_URL}: something listens there")
    done = score_py(many / "prompt_0", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)) == COUNT // 8
    url = re.search(r"runs at (\S+) for this run and serves", done.stderr)
    assert url
    assert not listens(url[1])
