"""The page for people, in a real browser: drop, rank, maps, failures, and where it listens."""

import io
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from browser import headless_chromium
from ma_agiqa_client.app import _command as app
from ma_agiqa_client.cli._embedded import listens

SCRIPT = Path(__file__).resolve().parents[2] / "client" / "app.py"
LEVELS = (40, 200, 120, 80, 160)
LOAD_MS = 60_000  # a slow machine may need long; nothing is timed


def brightness(image, context):
    """The scripted server's score: how bright the picture is."""
    if image == b"no image":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Not an image.")
    with Image.open(io.BytesIO(image)) as picture:
        return float(np.asarray(picture.convert("L")).mean()) / 2.55


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def address(scripted, tmp_path):
    """The page's own process; it says where it is, just before it opens the port."""
    pytest.importorskip("nicegui", reason="the extra `app` is not installed")
    port = free_port()
    command = [sys.executable, str(SCRIPT), "--url", scripted.url, "--port", str(port)]
    # NiceGUI serves nothing in a process that seems to be a test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    said = re.search(r"http://\S+", process.stderr.readline())
    while not listens(f"127.0.0.1:{port}"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    yield said[0]
    process.terminate()
    process.communicate()


@pytest.fixture
def page(address):
    with headless_chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(LOAD_MS)
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_function("window.did_handshake")
        yield page
        inside = (address, address.replace("http", "ws"), "data:", "blob:")
        assert [url for url in requests if not url.startswith(inside)] == []
        assert errors == []


def drop(page, folder):
    for level in LEVELS:
        Image.new("RGB", (64, 48), (level, level, level)).save(folder / f"grey_{level}.png")
    (folder / "text.png").write_bytes(b"no image")
    page.set_input_files("input[type=file]", [*folder.glob("grey_*.png"), folder / "text.png"])
    page.wait_for_function("document.querySelector('.status').textContent == '6 images'")


def test_dropped_images_are_ranked_with_maps_and_failures(page, scripted, tmp_path):
    scripted.answer = brightness
    drop(page, tmp_path)
    names = [card.text_content() for card in page.locator(".result .truncate").all()]
    assert names == [*(f"grey_{level}.png" for level in sorted(LEVELS, reverse=True)), "text.png"]
    assert page.locator(".result .score").first.text_content() == "78.43"  # 200 / 2.55
    ranks = page.locator(".result .rank").all_text_contents()
    assert ranks[:5] == ["#1", "#2", "#3", "#4", "#5"]
    assert "Not an image." in page.locator(".result").last.text_content()
    widths = page.locator(".result .gate").first.evaluate(
        "bar => [...bar.children].map(part => part.style.width)"
    )
    assert widths == ["25%", "25%", "50%"]
    assert "The demo model." in page.locator("body").text_content()
    picture = page.locator(".result img").first.get_attribute("src")
    page.get_by_role("switch", name="Maps").click()
    page.wait_for_function(
        "before => document.querySelector('.result img').src != before", arg=picture
    )
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("document.querySelectorAll('.result').length == 0")


def test_help_and_wrong_usage():
    run = CliRunner().invoke
    assert "127.0.0.1" in run(app.main, ["--help"]).stdout
    assert run(app.main, ["--port", "0"]).exit_code == 2
    assert run(app.main, ["--url", "http://x:1"]).exit_code == 2


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    monkeypatch.delitem(sys.modules, "ma_agiqa_client.app._page", raising=False)
    result = CliRunner().invoke(app.main, [])
    assert result.exit_code == 1
    assert "ma-agiqa-client[app]" in result.stderr


@pytest.mark.usefixtures("no_waiting")
def test_without_a_server_it_ends():
    pytest.importorskip("nicegui", reason="the extra `app` is not installed")
    result = CliRunner().invoke(app.main, ["--url", "127.0.0.1:1"])
    assert result.exit_code == app.EXIT_NO_SERVER
    assert "is not available" in result.stderr
