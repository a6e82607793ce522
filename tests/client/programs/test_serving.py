"""Which version of the model a run asks for, and how long it waits for a server."""

from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from ma_agiqa_client.cli import _command as cli

COUNT = 30


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """COUNT files whose score the scripted server reads from their bytes."""
    monkeypatch.chdir(tmp_path)
    Path("imgs").mkdir()
    for number in range(COUNT):
        Path(f"imgs/{number}.png").write_text(str(number))


def run(*arguments):
    return CliRunner().invoke(cli.main, ["imgs", *map(str, arguments)])


def asked(server):
    return {request.model_name for request in server.requests}


def test_a_run_keeps_to_the_version_that_is_active(scripted):
    scripted.card["version"] = "3"
    assert run("--url", scripted.url).exit_code == 0
    assert asked(scripted) == {"ma_agiqa_v3"}


def test_the_version_that_is_asked_for(scripted):
    scripted.card["version"] = "3"
    assert run("--url", scripted.url, "--model-version", 2).exit_code == 0
    assert asked(scripted) == {"ma_agiqa_v2"}


@pytest.mark.parametrize("version", ["0", "3"])
def test_a_server_that_knows_no_versions_by_number(scripted, version):
    scripted.card["version"] = version
    scripted.cards["ma_agiqa_v3"] = None
    assert run("--url", scripted.url).exit_code == 0
    assert asked(scripted) == {"ma_agiqa"}


@pytest.mark.parametrize("other", [None, {"checkpoint_sha256": "1" * 64}])
def test_all_servers_have_to_keep_the_version(scripted, another, other):
    scripted.card["version"] = another.card["version"] = "3"
    another.cards["ma_agiqa_v3"] = other and another.card | other
    assert run("--url", scripted.url, "--url", another.url).exit_code == 0
    assert asked(scripted) | asked(another) == {"ma_agiqa"}


@pytest.mark.usefixtures("no_waiting")
def test_a_server_that_is_away_does_not_matter(scripted):
    scripted.card["version"] = "3"
    assert run("--url", scripted.url, "--url", "127.0.0.1:1").exit_code == 0
    assert asked(scripted) == {"ma_agiqa_v3"}


LOST = "The run cannot continue with tiny, the model it began with: The server at"
UNLOADED = "The server has unloaded tiny, version 3, with which the run began: another version"


@pytest.mark.parametrize(
    ("reason", "sentence"), [("is not found", LOST), ("has no available versions", UNLOADED)]
)
def test_a_version_that_is_dropped_in_the_middle(scripted, reason, sentence):
    scripted.card["version"] = "3"

    def answer(image, context):
        if len(scripted.requests) > COUNT // 2:
            message = f"Request for unknown model: 'ma_agiqa_v3' {reason}"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        return float(image)

    scripted.answer = answer
    options = ("--url", scripted.url, "--resume", "done.jsonl")
    result = run(*options, "--concurrency", 4, "--retry-for", 0.3)
    assert result.exit_code == cli.EXIT_NO_SERVER == 3
    assert sentence in result.stderr
    assert f"'ma_agiqa_v3' {reason}. " in result.stderr
    assert 1 <= len(Path("done.jsonl").read_text().splitlines()) <= COUNT // 2
    scripted.answer = lambda image, context: float(image)
    assert run(*options).exit_code == 0
    assert len(Path("done.jsonl").read_text().splitlines()) == COUNT


def test_an_outage_is_waited_out_for_as_long_as_asked(scripted):
    def answer(image, context):
        if 5 < len(scripted.requests) < 10:
            context.abort(grpc.StatusCode.UNAVAILABLE, "It restarts.")
        return float(image)

    scripted.answer = answer
    options = ("--url", scripted.url, "--concurrency", 2)
    assert run(*options, "--retry-for", 0).exit_code == cli.EXIT_NO_SERVER
    scripted.requests.clear()
    assert run(*options).exit_code == 0
