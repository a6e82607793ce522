"""The command line against the real server: good and bad images, a page, kills, a lost server."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedded.server import EmbeddedTriton
from ma_agiqa_client import Scorer
from ma_agiqa_client._programs.embedded import DEFAULT_URL, listens
from support.browser import colors_on, headless_chromium

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "client" / "score.py"
BATCH_TOLERANCE = 1e-4  # of MOS: an image in one batch against the same image in another
BAD = {"truncated.jpg": b"\xff\xd8\xff\xe0 cut", "text.png": b"This is no image.", "empty.png": b""}
COUNT = 240


def picture(seed: int) -> Image.Image:
    """A gradient under noise of a strength of its own; sizes and proportions vary."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(32, 300, 2)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    noise = rng.normal(0, rng.uniform(0, 80), (height, width, 3))
    return Image.fromarray((ramp + noise + rng.uniform(0, 55, 3)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Good images in four formats and a subfolder, between bad ones."""
    (tmp_path / "sub").mkdir()
    for seed, name in enumerate(["a.png", "b.jpg", "sub/c.webp", "sub/d.PNG", "z.bmp"]):
        picture(seed).save(tmp_path / name)
    for name, data in BAD.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """COUNT images, made once."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(COUNT):
        path = folder / f"prompt_{seed % 8}" / f"{seed:04d}.{('png', 'jpg', 'webp')[seed % 3]}"
        path.parent.mkdir(exist_ok=True)
        picture(seed).save(path)
    return folder


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command_line(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def wait_for_lines(path: Path, count: int, process: "subprocess.Popen[str]") -> None:
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def assert_same_scores(one: list[dict], other: list[dict]) -> None:
    assert [row["image"] for row in one] == [row["image"] for row in other]
    mos = ([row["mos"] for row in rows] for rows in (one, other))
    np.testing.assert_allclose(*mos, rtol=0, atol=BATCH_TOLERANCE)


def test_the_good_are_scored_and_the_bad_listed(server, folder):
    done = command_line(folder, "--url", server.grpc_url, "--format", "json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    columns = ["image", "mos", "normalized", "percentile", "gate", "model", "error"]
    assert all(list(row) == columns for row in rows)
    scored = [row for row in rows if row["error"] is None]
    names = {"a.png", "b.jpg", "c.webp", "d.PNG", "z.bmp"}
    assert {Path(row["image"]).name for row in scored} == names
    assert [row["mos"] for row in scored] == sorted((row["mos"] for row in scored), reverse=True)
    failed = [row for row in rows if row["error"]]
    assert {Path(row["image"]).name for row in failed} == set(BAD)
    assert all(row["mos"] is row["gate"] is None for row in failed)
    assert all(Path(row["image"]).name in done.stderr for row in failed)


def test_the_table_names_the_model(server, folder):
    done = command_line(folder / "sub", folder / "a.png", "--url", server.grpc_url)
    assert done.returncode == 0
    with Scorer(server.grpc_url) as scorer:
        card = scorer.model()
    assert f"Model: {card.name} (preset {card.preset}" in done.stdout
    assert card.note in done.stdout
    assert done.stdout.count("%") == 3 * 4


def test_examples_become_a_page_that_shows_pictures_and_maps(server, tmp_path):
    path = tmp_path / "report.html"
    maps = tmp_path / "maps"
    examples = ROOT / "examples"
    done = command_line(examples, "--url", server.grpc_url, "--report", path, "--maps", maps)
    assert done.returncode == 0, done.stderr
    count = len(list(examples.glob("*.jpg")))
    assert len(list(maps.rglob("*.map.jpg"))) == count
    with headless_chromium() as browser:
        page = browser.new_page()
        page.goto(path.as_uri())
        page.check("#maps")
        page.wait_for_selector(".card canvas")
        assert page.locator(".card").count() == count
        first = page.locator(".card").first
        assert "pristine" in first.text_content()
        assert first.locator("img").evaluate("image => image.naturalWidth") > 100
        first.click()
        high = page.locator("#high").text_content()
        assert float(high) > float(page.locator("#low").text_content())
        page.keyboard.press("Escape")
        assert colors_on(page, tmp_path / "report.png") > 1000  # photographs and maps


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_an_uninterrupted_one(server, many, tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    arguments = (many, "--url", server.grpc_url, "--format", "jsonl", "--resume")
    uninterrupted = command_line(*arguments, whole)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    for lines in (COUNT // 4, COUNT // 2):
        process = start(*arguments, killed)
        wait_for_lines(killed, lines, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    os.truncate(killed, killed.stat().st_size - 20)  # as if it was killed within a write
    kept = killed.read_bytes().count(b"\n")
    assert COUNT // 2 - 1 <= kept < COUNT
    last = command_line(*arguments, killed)
    assert last.returncode == 0, last.stderr
    assert f"{kept} of {COUNT} images were scored earlier." in last.stderr
    assert len(records(killed)) == COUNT
    assert_same_scores(records(killed), records(whole))
    shown = [
        [json.loads(line) for line in run.stdout.splitlines()] for run in (last, uninterrupted)
    ]
    assert_same_scores(*shown)


@pytest.mark.slow
def test_a_server_that_goes_away_leaves_what_is_done(many, server, tmp_path):
    journal = tmp_path / "done.jsonl"
    with EmbeddedTriton(ROOT / "model_repository", free_ports=True) as lost:
        options = ("--resume", journal, "--concurrency", 4, "--retry-for", 3)
        process = start(many, "--url", lost.grpc_url, *options)
        wait_for_lines(journal, COUNT // 4, process)
    table, said = process.communicate()
    assert process.returncode == 3
    kept = len(records(journal))
    assert COUNT // 4 <= kept < COUNT
    assert f"{COUNT - kept} of {COUNT} images could not be scored." in said
    assert table.count(".png") + table.count(".jpg") + table.count(".webp") == kept
    done = command_line(many, "--url", server.grpc_url, "--resume", journal)
    assert done.returncode == 0
    assert f"{kept} of {COUNT} images were scored earlier." in done.stderr
    assert len(records(journal)) == COUNT


@pytest.mark.slow
def test_a_server_that_restarts_in_the_middle_is_waited_for(many, tmp_path):
    journal = tmp_path / "done.jsonl"
    repository = ROOT / "model_repository"
    with EmbeddedTriton(repository, free_ports=True) as first:
        options = ("--resume", journal, "--concurrency", 4, "--format", "jsonl")
        process = start(many, "--url", first.grpc_url, *options)
        wait_for_lines(journal, COUNT // 4, process)
    ports = first.ports
    scored = len(records(journal))
    assert scored < COUNT
    with EmbeddedTriton(
        repository, grpc_port=ports.grpc, http_port=ports.http, metrics_port=ports.metrics
    ):
        shown, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (0, "")
    assert len(shown.splitlines()) == len(records(journal)) == COUNT


@pytest.mark.slow
def test_without_an_address_a_server_is_started_and_stopped(folder):
    if listens(DEFAULT_URL):
        pytest.skip(f"something listens at {DEFAULT_URL}, so no server would be started")
    done = command_line(folder / "sub", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 2
    url = re.search(r"runs at (\S+) for this run and serves", done.stderr)
    assert url
    assert not listens(url[1])
