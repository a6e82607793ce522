"""The reward server over real HTTP, before a scripted server that scores."""

import base64
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
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import grpc
import pytest

from ma_agiqa_client import Retry, Scorer
from ma_agiqa_client.rewards.__main__ import main
from ma_agiqa_client.rewards._server import RewardServer

MODULE = [sys.executable, "-m", "ma_agiqa_client.rewards"]


class Reply:
    """Status, headers and read body of an answer."""

    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def fields(self):
        pickled = self.headers["Content-Type"] == "application/octet-stream"
        return pickle.loads(self.body) if pickled else json.loads(self.body)


def ask(server, body=None, path="/", method="POST", **headers) -> Reply:
    connection = HTTPConnection(*server.server_address[:2], timeout=60)
    try:
        connection.request(method, path, body, headers)
        return Reply(connection.getresponse())
    finally:
        connection.close()


def as_json(*images: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()


@pytest.fixture
def serve(scripted):
    """Starts reward servers and stops them at the end."""
    running = []

    def start(url=scripted.url, timeout_s=30.0, **options):
        scorer = Scorer(url, timeout_s=timeout_s, retry=Retry(budget_s=0, connect_budget_s=0))
        server = RewardServer("127.0.0.1", 0, scorer, **options)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread, scorer))
        return server

    yield start
    for server, thread, scorer in running:
        server.shutdown()
        thread.join()
        server.server_close()
        scorer.close()


@pytest.mark.parametrize("path", ["/", "/score"])
def test_json(serve, path):
    reply = ask(serve(), as_json(b"25", b"50"), path)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.fields == {
        "scores": [0.25, 0.5],
        "outputs": [0.25, 0.5],
        "mos": [25, 50],
        "failed": [],
        "model": "tiny",
    }


def test_a_pickle(serve):
    reply = ask(serve(), pickle.dumps({"images": [b"25"], "prompts": ["a"], "metadata": {}}))
    assert (reply.status, reply.fields["scores"]) == (200, [0.25])


def test_a_pickle_that_calls_something_is_refused(serve, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    server = serve()
    for body in (pickle.dumps(Evil()), pickle.dumps({"images": [b"1"], "metadata": Evil()})):
        reply = ask(server, body)
        assert reply.status == 400
        assert "more than plain values" in reply.fields["error"]
    assert not (tmp_path / "made").exists()
    assert ask(server, as_json(b"1")).status == 200


@pytest.mark.parametrize("pickled", [False, True])
def test_an_image_that_fails(serve, pickled):
    images = [b"10", b"no number"]
    body = pickle.dumps({"images": images}) if pickled else as_json(*images)
    reply = ask(serve(), body)
    assert reply.status == 422
    assert reply.fields == {
        "error": "Image 1 of the batch has no reward. Not a number. Send digits."
    }


def test_the_fallback(serve, caplog):
    reply = ask(serve(fallback=0.125), as_json(b"10", b"no number"))
    assert reply.status == 200
    assert (reply.fields["scores"], reply.fields["mos"]) == ([0.1, 0.125], [10, None])
    assert reply.fields["failed"] == [1]
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
    assert reply.status == expected
    assert reply.fields["error"].startswith("Image 0 of the batch has no reward.")


def test_no_server_that_scores(serve):
    with socket.socket() as taken:  # bound but not listening: refuses connections
        taken.bind(("127.0.0.1", 0))
        server = serve(f"127.0.0.1:{taken.getsockname()[1]}")
        assert ask(server, as_json(b"1")).status == 503
        assert ask(server, method="GET", path="/health").status == 503


def test_health(serve):
    reply = ask(serve(), method="GET", path="/health")
    assert (reply.status, reply.fields) == (200, {"status": "ready"})


@pytest.mark.parametrize("body", [b"", b"{}", b"\x80\x04", b"<html>", b'{"images": []}'])
def test_what_is_no_request(serve, body):
    reply = ask(serve(), body)
    assert reply.status == 400
    assert reply.fields["error"].endswith(".")


def test_a_request_that_is_too_large(serve):
    server = serve(max_body_bytes=2**20)
    reply = ask(server, b"x" * (2**20 + 1))
    assert reply.status == 413
    assert "1,048,577 bytes; expected at most 1,048,576" in reply.fields["error"]
    assert ask(server, b"x" * 2**20).status == 400  # read, and found to be no request


def test_other_addresses_and_methods(serve):
    server = serve()
    assert ask(server, as_json(b"1"), "/other").status == 404
    assert ask(server, method="GET").status == 404
    assert ask(server, method="PUT").status == 501


@pytest.mark.parametrize("length", ["", "-1", "1e3", "\u0661"])
def test_a_request_without_a_length(serve, length):
    with socket.create_connection(serve().server_address[:2], timeout=30) as connection:
        header = f"Content-Length: {length}\r\n" if length else ""
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 411")
    assert b"Connection: close" in answer


def test_a_connection_is_kept(serve, scripted):
    server = serve()
    connection = HTTPConnection(*server.server_address[:2], timeout=30)
    for body, status in ((as_json(b"1"), 200), (b"{", 400), (as_json(b"x"), 422)) * 3:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is not None  # the answer did not close it
    connection.close()


def test_a_trainer_that_hangs_up(serve, caplog):
    server = serve()
    for sent in (b"", b"POST / HT", b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc"):
        with socket.create_connection(server.server_address[:2]) as connection:
            connection.sendall(sent)
    assert ask(server, as_json(b"1")).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_many_trainers_at_once(serve, scripted):
    server = serve(max_requests=4)
    with ThreadPoolExecutor(48) as pool:
        replies = list(pool.map(lambda n: ask(server, as_json(b"%d" % (n % 101))), range(300)))
    assert {reply.status for reply in replies} == {200}
    assert [reply.fields["mos"] for reply in replies] == [[n % 101] for n in range(300)]
    assert 1 < scripted.most_in_flight <= 4


def test_a_mistake_of_this_package_is_answered_and_logged(serve, monkeypatch, caplog):
    server = serve()
    monkeypatch.setattr(server.scorer, "score_many", None)
    reply = ask(server, as_json(b"1"))
    assert (reply.status, "log" in reply.fields["error"]) == (500, True)
    assert "TypeError" in caplog.text


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*MODULE, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it starts in the background ignore Ctrl-C, and so would this inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


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


def test_the_command_says_what_is_wrong(scripted):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        nobody = start("--url", f"127.0.0.1:{port}")
        assert (nobody.communicate()[1].count("\n"), nobody.returncode) == (1, 3)
        taken.listen()
        busy = start("--url", scripted.url, "--port", port)
        assert f"Cannot listen on 127.0.0.1:{port}" in busy.communicate()[1]
        assert busy.returncode == 4
    for wrong in (["--fallback", "nan"], ["--url", "http://x:1"], ["--port", "70000"]):
        process = start(*wrong)
        assert "Error: " in process.communicate()[1]
        assert process.returncode == 2


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_shell_examples_of_the_help(scripted, tmp_path):
    """The two lines for a shell, as they are printed, but for the port."""
    (tmp_path / "cat.png").write_bytes(b"75")
    shown = subprocess.run([*MODULE, "--help"], capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in shown.splitlines() if "curl" in line]
    process = start("--url", scripted.url, "--port", 0)
    try:
        port = address(process)[1]
        answers = [
            json.loads(
                subprocess.check_output(
                    ["bash", "-c", line.replace("18086", str(port)).replace("curl", "curl -s")],
                    cwd=tmp_path,
                )
            )
            for line in lines
        ]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert answers[0] == {"status": "ready"}
    assert answers[1]["scores"] == [0.75]


def test_the_commands_of_the_help_are_understood():
    commands = re.findall(r"python -m ma_agiqa_client.rewards(.*)", main.epilog)
    assert len(commands) == 3
    for command in commands:
        main.make_context("rewards", shlex.split(command))  # raises for what it does not know
