"""The page for people, in a real browser: drop, rank, maps, failures, and what it refuses."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from click.testing import CliRunner
from PIL import Image

from ma_agiqa_client import Scorer
from ma_agiqa_client._programs.embedded import listens
from ma_agiqa_client._wire.images import MAX_IMAGE_BYTES
from ma_agiqa_client.app import _command as app
from support.browser import colors_on, headless_chromium
from support.local_hub import free_port
from support.pictures import encoded
from support.scripted_server import brightness
from support.waiting import wait_until

SCRIPT = Path(__file__).resolve().parents[3] / "client" / "app.py"
LEVELS = (51, 204, 102)


@contextmanager
def running_page(url: str, folder: Path) -> Iterator[str]:
    """Run client/app.py for the server at `url`; yield the page's address."""
    pytest.importorskip("nicegui", reason="the extra `app` is not installed")
    port = free_port()
    command = [sys.executable, str(SCRIPT), "--url", url, "--port", str(port)]
    # NiceGUI serves nothing in a process that seems to be a test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        said = re.search(r"http://\S+", process.stderr.readline())
        wait_until(lambda: process.poll() is not None or listens(f"127.0.0.1:{port}"))
        assert process.poll() is None, process.stderr.read()
        yield said[0]
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def page(stand_in, tmp_path):
    """The page in a browser; errors of scripts, and requests to elsewhere, fail at the end."""
    with running_page(stand_in.grpc_url, tmp_path) as address, headless_chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)  # a slow machine may need long; nothing is timed
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_function("window.did_handshake")
        yield page
        inside = (address, address.replace("http", "ws"), "data:", "blob:")
        assert [url for url in requests if not url.startswith(inside)] == []
        assert errors == []


def test_dropped_images_are_ranked_with_maps_and_failures(page, stand_in, tmp_path):
    """By a real Triton, whose scores are the brightness of the images."""
    for level in LEVELS:
        Image.new("RGB", (640, 480), (level, level, 255)).save(tmp_path / f"gray_{level}.png")
    (tmp_path / "text.png").write_bytes(b"no image")
    files = [*tmp_path.glob("gray_*.png"), tmp_path / "text.png"]
    page.set_input_files("input[type=file]", files)
    page.wait_for_function("document.querySelector('.status').textContent == '4 images'")
    with Scorer(stand_in.grpc_url) as scorer:
        ranked, note = scorer.rank(files), scorer.model().note
    shown = page.locator(".result .score").all_text_contents()
    assert [float(text) for text in shown] == pytest.approx([s.mos for s in ranked[:3]], abs=0.006)
    names = [card.text_content() for card in page.locator(".result .truncate").all()]
    assert names == ["gray_204.png", "gray_102.png", "gray_51.png", "text.png"]
    assert page.locator(".result .rank").all_text_contents()[:3] == ["#1", "#2", "#3"]
    assert str(ranked[3].error) in page.locator(".result").last.text_content()
    widths = page.locator(".result .gate").first.evaluate(
        "bar => [...bar.children].map(part => parseFloat(part.style.width))"
    )
    assert widths == pytest.approx([100 * part for part in vars(ranked[0].gate).values()], abs=0.01)
    assert note in page.locator("body").text_content()
    facts = page.locator(".result").first.text_content()
    low, high = ranked[0].interval
    assert f"90% interval {low:.2f} to {high:.2f}" in facts
    assert "extrapolation" not in facts
    assert page.locator(".tie").text_content() == ""  # 204 is far from 102
    pictures = "[...document.querySelectorAll('.result img')].slice(0, 3)"
    drawn = f"{pictures}.every(i => i.naturalWidth > 100 && getComputedStyle(i).opacity == 1)"
    page.wait_for_function(drawn)
    before = page.locator(".result img").first.get_attribute("src")
    page.get_by_role("switch", name="Maps").click()
    page.wait_for_function(f"{pictures}[0].src != {before!r} && {drawn}")
    assert colors_on(page, tmp_path / "maps.png") > 100
    for level in (206, 1):
        Image.new("RGB", (64, 64), (level, level, level)).save(tmp_path / f"gray_{level}.png")
    page.set_input_files("input[type=file]", [tmp_path / "gray_206.png", tmp_path / "gray_1.png"])
    page.wait_for_function("document.querySelector('.status').textContent == '6 images'")
    assert "best two are not distinguishable" in page.locator(".tie").text_content()
    assert "extrapolation" in page.locator(".result", has_text="gray_1.png").text_content()
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("document.querySelectorAll('.result').length == 0")


def test_pages_of_others_and_large_uploads_are_refused(scripted, tmp_path):
    """Without a browser, which would refuse some of this by itself."""
    scripted.answer = brightness
    picture = {"file": ("a.png", encoded(Image.new("RGB", (8, 8), (51, 51, 51)), "PNG"))}
    evil = "http://evil.example.org"
    with running_page(scripted.url, tmp_path) as address:
        shown = requests.get(address, timeout=60).text
        upload = re.search(r"/_nicegui/client/[0-9a-f-]+/upload/\d+", shown)[0]

        def status(method, path=upload, **options):
            reply = requests.request(method, address + path, timeout=60, **options)
            return reply.status_code, "error" in reply.text[:10]

        refused = (403, True)
        for name in ("evil.example.org", "127.0.0.1.evil.example.org", ""):
            assert status("GET", "/", headers={"Host": name}) == refused
            assert status("POST", files=picture, headers={"Host": name}) == refused
        for origin in (evil, "null", "http://localhost:1"):
            assert status("POST", files=picture, headers={"Origin": origin}) == refused
        socket = "/_nicegui_ws/socket.io/?EIO=4&transport="
        assert status("GET", f"{socket}polling", headers={"Origin": evil}) == refused
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade |= {"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==", "Origin": evil}
        assert status("GET", f"{socket}websocket", headers=upgrade)[0] == 403
        large = HTTPConnection(urlsplit(address).netloc, timeout=60)
        large.request("POST", upload, headers={"Content-Length": str(MAX_IMAGE_BYTES + 2**20 + 1)})
        assert large.getresponse().status == 413  # before the body is sent
        large.close()
        assert status("POST", data=iter([b"x"])) == (411, True)
        assert not scripted.requests
        own = {"Origin": address, "Host": urlsplit(address).netloc}
        assert status("POST", files=picture, headers=own) == (200, False)
        wait_until(lambda: scripted.requests)  # the upload is scored
        assert len(scripted.requests) == 1


def test_help_and_wrong_usage():
    run = CliRunner().invoke
    assert "127.0.0.1" in run(app.main, ["--help"]).stdout
    assert run(app.main, ["--port", "0"]).exit_code == 2
    assert run(app.main, ["--url", "http://x:1"]).exit_code == 2


def test_it_starts_without_a_clone():
    command = [sys.executable, "-m", "ma_agiqa_client.app", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "  python -m ma_agiqa_client.app --url triton.example.org:8001 --port 9000" in shown


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    monkeypatch.delitem(sys.modules, "ma_agiqa_client.app._page", raising=False)
    result = CliRunner().invoke(app.main, [])
    assert result.exit_code == 1
    assert "pip install './client[app]'" in result.stderr


@pytest.mark.usefixtures("no_waiting")
def test_without_a_server_it_ends():
    pytest.importorskip("nicegui", reason="the extra `app` is not installed")
    result = CliRunner().invoke(app.main, ["--url", "127.0.0.1:1"])
    assert result.exit_code == app.EXIT_NO_SERVER
    assert "is not available" in result.stderr
