"""Download of images from a real HTTP server on this machine."""

import asyncio
import contextlib
import http.server
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ma_agiqa_client import AsyncScorer, InvalidImageError, Scorer
from ma_agiqa_client._wire import images
from ma_agiqa_client._wire.fetch import fetch
from ma_agiqa_client._wire.images import Encoder

OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "/slow": [OK + b"\r\n", *(b"image" * 12)],
    "/slow-status": b"HTTP/1.1 200 " * 5,
    "/slow-header": OK + b"X: y\r\n" * 10,
    "/slow-chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 9,
    "/continue": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 60,
}


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/image":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"bytes\0of an image\0")
        elif self.path == "/moved":
            self.redirect("/image")
        elif self.path == "/away":
            self.redirect("file:///etc/hostname")
        elif self.path == "/ftp":
            self.redirect("ftp://127.0.0.1/image")
        elif self.path in DRIPS:
            self.drip(DRIPS[self.path])
        elif self.path == "/slow-move":
            time.sleep(0.3)
            self.redirect("/slow-move")
        elif self.path == "/garbage":
            self.wfile.write(b"not HTTP\r\n")
        else:
            self.send_error(404, "no such image")

    def drip(self, data):
        """Send part by part, until the client hangs up."""
        with contextlib.suppress(ConnectionError):
            for part in data:
                self.wfile.write(part if isinstance(part, bytes) else bytes([part]))
                time.sleep(0.05)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/image", "/moved"])
def test_what_is_fetched_is_sent_unchanged(site, path):
    assert Encoder(fetch_urls=True).encode(site + path) == b"bytes\0of an image\0"


def test_a_missing_image_is_named(site):
    with pytest.raises(InvalidImageError, match=f"{site}/absent.*no such image"):
        Encoder(fetch_urls=True).encode(f"{site}/absent")


@pytest.mark.parametrize(("path", "reason"), [("/away", "not allowed"), ("/ftp", "unknown url")])
def test_a_redirection_away_from_the_web_is_not_followed(site, path, reason):
    with pytest.raises(InvalidImageError, match=reason):
        fetch(site + path, 5, 99)


def test_no_server_there():
    with pytest.raises(InvalidImageError, match="Connection refused"):
        fetch("http://127.0.0.1:1/a.png", 5, 99)


def test_an_answer_that_is_not_http_is_the_addresses_fault(site):
    with pytest.raises(InvalidImageError, match=f"{site}/garbage cannot be fetched: not HTTP"):
        fetch(f"{site}/garbage", 5, 99)


@pytest.mark.parametrize("path", [*DRIPS, "/slow-move"])
def test_a_slow_peer_is_given_up_by_name_at_the_deadline(site, path):
    """It would take 3 s; never more than 0.3 s pass without a byte."""
    with (
        Scorer("127.0.0.1:1", fetch_urls=True) as scorer,
        pytest.raises(
            InvalidImageError, match=rf"{site}{path} .* not complete after 0\.\d+ s"
        ) as caught,
    ):
        scorer.score(f"{site}{path}", timeout_s=0.5)
    assert "127.0.0.1:1 " not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["http://[::1/x.png", "http://", "http://a b/", "http://127.0.0.1:99999/", "http://\0"],
)
def test_an_address_that_cannot_be_is_an_error_of_its_image_alone(scripted, address):
    with Scorer(scripted.url, fetch_urls=True) as scorer:
        outcomes = list(scorer.score_many([b"1", address, b"2"]))
    assert [outcome.mos for outcome in (outcomes[0], outcomes[2])] == [1, 2]
    assert isinstance(outcomes[1].error, InvalidImageError)


def test_a_fetch_waits_for_no_thread_of_the_event_loop(site, scripted):
    """Other work, such as fetches from a slow host, may occupy them."""
    scripted.answer = lambda image, context: 1.0
    over = threading.Event()

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        work = loop.run_in_executor(None, over.wait)
        try:
            async with AsyncScorer(scripted.url, fetch_urls=True) as scorer:
                score = scorer.score(f"{site}/image", timeout_s=10)
                return (await asyncio.wait_for(score, 20)).mos
        finally:
            over.set()
            await work

    assert asyncio.run(scenario()) == 1.0


def test_too_large_an_image_is_not_kept(site, monkeypatch):
    assert fetch(f"{site}/image", 5, 4) == b"bytes"
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 5)
    with pytest.raises(InvalidImageError, match="more than 5 bytes"):
        Encoder(fetch_urls=True).encode(f"{site}/image")
