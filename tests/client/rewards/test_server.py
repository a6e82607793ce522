"""The reward server over real HTTP, before a scripted server that scores."""

import base64
import gc
import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import requests
from click.testing import CliRunner, Result

from ma_agiqa_client import Scorer
from ma_agiqa_client.rewards.__main__ import main
from support.scripted_server import after_a_moment

MODULE = [sys.executable, "-m", "ma_agiqa_client.rewards"]

HEALTHY = {"status": "ready", "rewards": {"mos": ["ready"]}}


def endpoint(server) -> tuple[str, int]:
    url = urlsplit(server.address)
    return url.hostname, url.port


def ask(server, body=None, path="/", method="POST", **headers) -> requests.Response:
    return requests.request(method, server.address + path, data=body, headers=headers, timeout=60)


def fields(reply: requests.Response) -> dict:
    pickled = reply.headers["Content-Type"] == "application/octet-stream"
    return pickle.loads(reply.content) if pickled else reply.json()


def send(server, data: bytes, host: str = "localhost") -> bytes:
    """Send the lines of a request as they are; return the reply, or b"" if none comes."""
    with socket.create_connection(endpoint(server), timeout=30) as connection:
        lines = f"POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n".encode()
        connection.sendall(lines + data)
        return connection.makefile("rb").read()


def as_json(*images: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()


@pytest.mark.parametrize("path", ["/", "/score", "/score/", "/?x=1"])
def test_json(serve, path):
    reply = ask(serve(), as_json(b"25", b"50"), path)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/json")
    assert fields(reply) == {
        "scores": [0.25, 0.5],
        "outputs": [0.25, 0.5],
        "mos": [25, 50],
        "failed": [],
        "model": "tiny",
        "parts": {"mos": [0.25, 0.5]},
        "errors": [{}, {}],
    }


def test_a_pickle(serve):
    reply = ask(serve(), pickle.dumps({"images": [b"25"], "prompts": ["a"], "metadata": {}}))
    assert (reply.status_code, fields(reply)["scores"]) == (200, [0.25])


@pytest.mark.parametrize("pickled", [False, True])
def test_large_bodies_one_after_the_other_and_at_once(serve, pickled):
    """Bodies take each other's memory, but never while it is in use."""
    server = serve()

    def rewards(first: int) -> list[float]:
        images = [str(first + i).encode().rjust(2**19, b"0") for i in range(4)]
        body = pickle.dumps({"images": images}) if pickled else as_json(*images)
        return fields(ask(server, body))["scores"]

    with ThreadPoolExecutor(4) as pool:
        given = [*map(rewards, range(4)), *pool.map(rewards, range(24))]
    wanted = [[(first + i) / 100 for i in range(4)] for first in [*range(4), *range(24)]]
    assert given == wanted
    assert server._memory._free


def enqueue(server) -> requests.Response:
    """Ask for the rewards of a picture as cosmos-rl does, until they are known or an error."""
    pixels = io.BytesIO()
    np.save(pixels, np.zeros((1, 8, 8, 3), np.uint8))
    head = json.dumps({"media_type": "image", "reward_fn": {"mos": 1}, "prompts": []}).encode()
    batch = ask(server, head + b"\n" + pixels.getvalue(), "/api/reward/enqueue")
    return ask(server, f"uuid={fields(batch)['uuid']}&type=mos", "/api/reward/pull")


def test_a_pull_waits_for_rewards_that_are_being_computed(serve, scripted, monkeypatch):
    monkeypatch.setattr("ma_agiqa_client.rewards._server._PULL_WAIT_S", 60)
    scripted.answer = lambda image, context: time.sleep(0.5) or 25.0
    reply = enqueue(serve())
    assert (reply.status_code, fields(reply)["scores"]) == (200, {"mos": [0.25]})


@pytest.mark.parametrize(("wait_s", "status"), [(0, 400), (60, 500)])
def test_a_pull_of_rewards_that_break(serve, monkeypatch, caplog, wait_s, status):
    known = threading.Event()

    def breaks(*arguments, **options):
        known.wait()
        raise RuntimeError("broken")

    monkeypatch.setattr("ma_agiqa_client.rewards._server._PULL_WAIT_S", wait_s)
    monkeypatch.setattr("ma_agiqa_client.rewards._server.evaluate", breaks)
    if wait_s:
        threading.Timer(0.2, known.set).start()
    server = serve()
    assert enqueue(server).status_code == status
    known.set()
    time.sleep(0.5)
    server._enqueued.clear()
    gc.collect()
    assert ask(server, method="GET", path="/health").ok
    assert "never retrieved" not in caplog.text


def test_a_pickle_that_calls_something_is_refused(serve, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    server = serve()
    for body in (pickle.dumps(Evil()), pickle.dumps({"images": [b"1"], "metadata": Evil()})):
        reply = ask(server, body)
        assert reply.status_code == 400
        assert "more than plain values" in fields(reply)["error"]
    assert not (tmp_path / "made").exists()
    assert ask(server, as_json(b"1")).status_code == 200


@pytest.mark.parametrize("pickled", [False, True])
def test_an_image_that_fails(serve, pickled):
    images = [b"10", b"no number"]
    body = pickle.dumps({"images": images}) if pickled else as_json(*images)
    reply = ask(serve(), body)
    assert reply.status_code == 422
    assert fields(reply) == {
        "error": "Image 1 of the batch has no reward. Not a number. Send digits.",
        "parts": {"mos": [0.1, None]},
        "errors": [{}, {"mos": "Not a number. Send digits."}],
    }


def test_the_fallback(serve, caplog):
    reply = ask(serve(fallback=0.125), as_json(b"10", b"no number"))
    assert reply.status_code == 200
    assert (fields(reply)["scores"], fields(reply)["mos"]) == ([0.1, 0.125], [10, None])
    assert fields(reply)["failed"] == [1]
    assert "1 of 2 images get the fallback reward" in caplog.text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.INTERNAL, 502),
        (grpc.StatusCode.NOT_FOUND, 502),
        (grpc.StatusCode.UNAUTHENTICATED, 502),
    ],
)
def test_failures_of_the_server_that_scores(serve, scripted, status, expected):
    scripted.answer = lambda image, context: context.abort(status, "No.")
    reply = ask(serve(), as_json(b"1"))
    assert reply.status_code == expected
    assert fields(reply)["error"].startswith("Image 0 of the batch has no reward.")


def test_a_scoring_server_that_is_not_available(serve, no_server):
    server = serve(no_server)
    assert ask(server, as_json(b"1")).status_code == 503
    assert ask(server, method="GET", path="/health").status_code == 503


@pytest.mark.parametrize("path", ["/health", "/health/", "/health?x", "/health/?x=1"])
def test_health(serve, path):
    server = serve()
    reply = ask(server, method="GET", path=path)
    assert (reply.status_code, fields(reply), reply.history) == (200, HEALTHY, [])
    assert ask(server, method="HEAD", path=path).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b"\x80\x04", b"<html>", b'{"images": []}'])
def test_what_is_no_request(serve, body):
    reply = ask(serve(), body)
    assert reply.status_code == 400
    assert fields(reply)["error"].endswith(".")


def test_a_request_that_is_too_large(serve):
    server = serve(max_body_bytes=2**20)
    reply = ask(server, b"x" * (2**20 + 1))
    assert reply.status_code == 413
    assert "1,048,577 bytes; expected at most 1,048,576" in fields(reply)["error"]
    assert ask(server, b"x" * 2**20).status_code == 400  # read, and found not to be a request


def test_a_pickle_that_names_one_image_many_times(serve, scripted):
    """The bytes are in the body once, but each image of the list would be sent."""
    image = b"1" * 2**18
    scripted.answer = lambda image, context: float(len(image) == 2**18)
    server = serve(max_body_bytes=2**20)
    assert fields(ask(server, pickle.dumps({"images": [image] * 4})))["mos"] == [1.0] * 4
    reply = ask(server, pickle.dumps({"images": [image] * 5}))
    assert reply.status_code == 400
    assert "over 1,048,576 bytes together" in fields(reply)["error"]


def test_a_chunked_body_is_refused_with_the_reason(serve, scripted):
    reply = ask(serve(), iter([as_json(b"1")]))  # requests sends what has no length in chunks
    assert reply.status_code == 411
    assert "sent as 'chunked'; expected a Content-Length header" in fields(reply)["error"]
    assert not scripted.requests


def test_other_addresses_and_methods(serve):
    server = serve()
    replies = [
        ask(server, as_json(b"1"), "/other"),
        ask(server, method="GET", path="/docs"),
        ask(server, method="GET"),
        ask(server, method="PUT"),
    ]
    assert [reply.status_code for reply in replies] == [404, 404, 405, 405]
    assert all("POST images to / or GET /health" in fields(reply)["error"] for reply in replies)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("", 411),
        ("Transfer-Encoding: chunked", 411),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 1e3", 400),
        ("Content-Length: \u0661", 400),
        ("Content-Length: 1\r\nContent-Length: 2", 400),
        (f"Content-Length: {10**30}", 400),
    ],
)
def test_a_request_without_a_length(serve, header, status):
    reply = send(serve(), f"{header}\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 %d " % status)


def test_headers_without_an_end(serve):
    """The connection is closed long before the 10 MB, and others are answered."""
    server = serve()
    with socket.create_connection(endpoint(server), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nX: ")
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            connection.sendall(b"x" * 10_000_000)
    assert ask(server, as_json(b"1")).ok


def test_web_pages_are_refused(serve, scripted):
    """A browser adds the header `Origin` to every post of a page, to this machine too."""
    for server in (serve(), serve(host="0.0.0.0")):
        reply = ask(server, as_json(b"1"), Origin="https://example.org")
        assert (reply.status_code, "web pages" in fields(reply)["error"]) == (403, True)
    assert not scripted.requests


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:18086", 200),
        ("127.0.0.1:18086", 200),
        ("[::1]:18086", 200),
        ("evil.example.org", 403),
        ("127.0.0.1.example.org:18086", 403),
        ("localhost:1@example.org", 403),
        ("[::1", 403),
        ("[]:1", 403),
        ("", 403),
    ],
)
def test_other_names_for_this_machine_are_refused(serve, host, status):
    """They would come from a page that had its own name resolved to 127.0.0.1."""
    body = as_json(b"1")
    reply = send(serve(), b"Content-Length: %d\r\n\r\n" % len(body) + body, host)
    assert reply.startswith(b"HTTP/1.1 %d " % status)


def test_a_server_for_others_has_any_name(serve):
    assert ask(serve(host="0.0.0.0"), as_json(b"1"), Host="gpu-1.example.org").status_code == 200


def test_a_connection_is_kept(serve):
    connection = HTTPConnection(*endpoint(serve(max_body_bytes=1000)), timeout=30)
    cases = ((as_json(b"1"), 200), (b"{", 400), (as_json(b"x"), 422), (b"x" * 200_000, 413))
    for body, status in cases * 3:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is not None  # the reply did not close it
    connection.close()


HALF = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"


def test_a_trainer_that_hangs_up(serve, caplog):
    server = serve()
    for sent in (b"", b"POST / HT", HALF):
        with socket.create_connection(endpoint(server)) as connection:
            connection.sendall(sent)
    assert ask(server, as_json(b"1")).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_half_of_a_request_times_out_and_does_not_block_others(serve):
    server = serve(max_requests=1, body_timeout_s=1.0)
    with ExitStack() as stack:
        halves = [
            stack.enter_context(socket.create_connection(endpoint(server), timeout=30))
            for _ in range(100)
        ]
        for half in halves:
            half.sendall(HALF)
        assert ask(server, as_json(b"1")).status_code == 200
        for half in halves:
            reply = half.makefile("rb").read()  # until the server closes the connection
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b"did not arrive within 1 s" in reply


def test_many_trainers_at_once(serve, scripted):
    server = serve(max_requests=4)
    scripted.answer = after_a_moment(scripted.answer)
    with ThreadPoolExecutor(48) as pool:
        replies = list(pool.map(lambda n: ask(server, as_json(b"%d" % (n % 101))), range(300)))
    assert {reply.status_code for reply in replies} == {200}
    assert [fields(reply)["mos"] for reply in replies] == [[n % 101] for n in range(300)]
    assert 1 < scripted.most_in_flight <= 4


def test_a_mistake_of_this_package_is_answered_and_logged(serve, monkeypatch, caplog):
    monkeypatch.setattr(Scorer, "score_many", None)
    reply = ask(serve(), as_json(b"1"))
    assert (reply.status_code, "log" in fields(reply)["error"]) == (500, True)
    while "TypeError" not in caplog.text:  # it is logged after the reply
        time.sleep(0.01)


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [*MODULE, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def address(process) -> tuple[str, int]:
    """Where the process says that it listens."""
    said = re.search(r"Rewards of (\w+) at http://(\S+):(\d+)", process.stderr.readline())
    return said[2], int(said[3])


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command(scripted, stop):
    process = start("--url", scripted.url, "--port", 0, "--fallback", 0.5)
    try:
        connection = HTTPConnection(*address(process), timeout=30)
        connection.request("POST", "/", as_json(b"25", b"x"))
        assert json.load(connection.getresponse())["scores"] == [0.25, 0.5]
    finally:
        process.send_signal(stop)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said


def test_it_stops_while_images_and_half_requests_are_in_flight(scripted):
    scripted.answer = lambda image, context: float(threading.Event().wait(60))
    process = start("--url", scripted.url, "--port", 0)
    try:
        where = address(process)
        waiting = HTTPConnection(*where, timeout=30)
        waiting.request("POST", "/", as_json(b"25"))
        half = socket.create_connection(where)
        half.sendall(HALF)
        while not scripted.in_flight:
            time.sleep(0.01)
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert waiting.getresponse().status == 503
    half.close()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_says_what_is_wrong(scripted, no_server):
    gone = run("--url", no_server)
    assert (gone.stderr.count("\n"), gone.exit_code) == (1, 3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = run("--url", scripted.url, "--port", port)
        assert f"Cannot listen on 127.0.0.1:{port}" in busy.stderr
        assert busy.exit_code == 4
    for wrong in (["--fallback", "nan"], ["--url", "http://x:1"], ["--port", "70000"]):
        assert "Error: " in run(*wrong).stderr
        assert run(*wrong).exit_code == 2


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ma_agiqa_client.rewards._server")
    result = run()
    assert result.exit_code == 2
    assert "pip install './client[rewards]'" in result.stderr


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_shell_examples_of_the_help(serve, tmp_path):
    """The two lines for a shell, as they are printed, but for the port."""
    (tmp_path / "cat.png").write_bytes(b"75")
    lines = [line.strip() for line in run("--help").stdout.splitlines() if "curl" in line]
    port = str(endpoint(serve())[1])
    answers = []
    for line in lines:
        command = line.replace("18086", port).replace("curl", "curl -s")
        answers.append(json.loads(subprocess.check_output(["bash", "-c", command], cwd=tmp_path)))
    assert answers[0] == HEALTHY
    assert answers[1]["scores"] == [0.75]


def test_the_commands_of_the_help_are_understood():
    commands = re.findall(r"python -m ma_agiqa_client.rewards(.*)", main.epilog)
    assert len(commands) == 6
    for command in commands:
        main.make_context("rewards", shlex.split(command))  # raises for what it does not know
