"""The page for people, in a real browser: drop, rank, maps, failures, and what it refuses."""

import re
import subprocess
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
import requests
from click.testing import CliRunner
from PIL import Image

from ma_agiqa_client._wire.images import MAX_IMAGE_BYTES
from ma_agiqa_client.app import _command as app
from support.page_process import open_page, running_page
from support.pictures import encoded
from support.scripted_server import brightness
from support.waiting import wait_until

LEVELS = (40, 200, 120, 80, 160)


@pytest.fixture
def page(scripted, tmp_path):
    with running_page(scripted.url, tmp_path) as address, open_page(address) as page:
        yield page


def drop(page, folder):
    for level in LEVELS:
        Image.new("RGB", (64, 48), (level, level, level)).save(folder / f"gray_{level}.png")
    (folder / "text.png").write_bytes(b"no image")
    page.set_input_files("input[type=file]", [*folder.glob("gray_*.png"), folder / "text.png"])
    page.wait_for_function("document.querySelector('.status').textContent == '6 images'")


def test_dropped_images_are_ranked_with_maps_and_failures(page, scripted, tmp_path):
    scripted.answer = brightness
    drop(page, tmp_path)
    names = [card.text_content() for card in page.locator(".result .truncate").all()]
    assert names == [*(f"gray_{level}.png" for level in sorted(LEVELS, reverse=True)), "text.png"]
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
