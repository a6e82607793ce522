"""The page for people: in a process of its own, and in a browser that notices what goes wrong."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ma_agiqa_client._programs.embedded import listens
from support.browser import headless_chromium

__all__ = ["open_page", "running_page"]

SCRIPT = Path(__file__).resolve().parents[2] / "client" / "app.py"
LOAD_MS = 60_000  # a slow machine may need long; nothing is timed


@contextmanager
def running_page(url: str, folder: Path) -> Iterator[str]:
    """Run client/app.py for the server at `url`; it says where it is, before it opens the port.

    Yields:
        The page's address.
    """
    pytest.importorskip("nicegui", reason="the extra `app` is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, str(SCRIPT), "--url", url, "--port", str(port)]
    # NiceGUI serves nothing in a process that seems to be a test.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        said = re.search(r"http://\S+", process.stderr.readline())
        while not listens(f"127.0.0.1:{port}"):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        yield said[0]
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def open_page(address: str) -> Iterator[Any]:
    """Open the page in a browser. Errors of scripts, and requests to elsewhere, fail at the end.

    Yields:
        Playwright's `Page`.
    """
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
