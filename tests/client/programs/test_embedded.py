"""Starting and stopping a server script, with real processes that keep the script's contract."""

import os
import textwrap

import pytest

from ma_agiqa_client import ServerUnavailableError
from ma_agiqa_client._programs.embedded import embedded_server, find_serve_script


def script(folder, body):
    path = folder / "serve.py"
    path.write_text(textwrap.dedent(body))
    return path


def serving(folder):
    """Says it is ready, waits for the end of its input, and leaves a file that says so."""
    return script(
        folder,
        f"""
        import json, pathlib, sys
        print(json.dumps({{"grpc_url": " ".join(sys.argv[1:])}}), flush=True)
        sys.stdin.read()
        pathlib.Path({str(folder / "stopped")!r}).touch()
        """,
    )


def test_the_server_is_started_with_the_agreed_options_and_stopped(tmp_path):
    with embedded_server(serving(tmp_path)) as url:
        assert url == "--free-ports --json --until-stdin-closes"
        assert not (tmp_path / "stopped").exists()
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_the_server_is_stopped_on_interruption(tmp_path, interruption):
    with pytest.raises(interruption), embedded_server(serving(tmp_path)):
        raise interruption
    assert (tmp_path / "stopped").exists()


def test_a_server_that_ignores_the_end_of_its_input_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("ma_agiqa_client._programs.embedded._STOP_TIMEOUT_S", 0.2)
    deaf = script(
        tmp_path,
        """
        import json, os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(json.dumps({"grpc_url": str(os.getpid())}), flush=True)
        time.sleep(600)
        """,
    )
    with embedded_server(deaf) as pid:
        os.kill(int(pid), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import sys; sys.exit('model.pt is missing. Run export/to_triton.py.')", "Run export/"),
        ("print('not JSON')", "not JSON"),
        ("print('{}')", "{}"),
        ("print('[]')", r"\[\]"),
        ("", "printed nothing"),
    ],
)
def test_a_server_that_does_not_start_is_quoted(tmp_path, body, said):
    with (
        pytest.raises(ServerUnavailableError, match=f"(?s)did not start.*{said}"),
        embedded_server(script(tmp_path, body)),
    ):
        pytest.fail("the server cannot have started")


def test_without_a_clone_the_client_says_how_to_start_a_server(tmp_path):
    with pytest.raises(ServerUnavailableError, match=r"python deploy/serve\.py.*--url"):
        find_serve_script(tmp_path)
