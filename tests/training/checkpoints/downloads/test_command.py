import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ma_agiqa.checkpoints.downloads import CHECKPOINT_NAME
from ma_agiqa.checkpoints.weight_files import check_mplug_owl2
from ma_agiqa.commands.paper_weights import main
from ma_agiqa.lmm.sources import PAPER_EMBEDDER
from support.local_hub import LocalHub
from support.published_weights import FOLDER_NAME, SHARDS, fetch_mplug_owl2


def command(*args: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "ma_agiqa", "paper-weights", *args],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("no_network")
def test_given_weights_are_used_and_printed_for_the_export(
    published: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "with space").symlink_to(published)
    given = {"embedder": tmp_path / "with space", "checkpoint": checkpoint}
    args = [f"--{name}={path}" for name, path in {**given, "output": tmp_path / "no"}.items()]
    result = CliRunner().invoke(main, args)

    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert shlex.split(first) == ["--checkpoint", str(checkpoint)]
    assert shlex.split(second) == ["--embedder", str(published)]
    assert result.stderr.count("nothing to download") == 2
    assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("no_network")
def test_everything_is_announced_before_the_first_failure(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--output", str(tmp_path)])

    assert result.exit_code == 1
    assert result.stdout == ""
    announced, _, failure = result.stderr.partition("Error: ")
    for fact in (
        "16.4 GB",
        "0.66 GB",
        f"/{PAPER_EMBEDDER}",
        "drive.google.com/file/d/1YT9Fryok-ozYPIvT1V3gEnEF-Ij3UxPp",
        "LLaMA 2 Community License",
        "Apache-2.0",
        str(tmp_path / CHECKPOINT_NAME),
        str(tmp_path / FOLDER_NAME),
    ):
        assert fact in announced, fact
    assert "cannot be reached" in failure


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--embedder", "no/such/folder", "no such folder"),
        ("--embedder", ".", "no config.json"),
        ("--checkpoint", "missing.pt", "no checkpoint at missing.pt"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_useless_option_is_reported_before_any_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [option, value])
    assert result.exit_code == 1
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_command_fetches_from_the_hub_that_the_environment_names(
    hub: LocalHub, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "weights"
    process = command(
        *("--output", str(output), "--checkpoint", str(checkpoint), "--json"), HF_ENDPOINT=hub.url
    )
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    assert json.loads(out) == {"checkpoint": str(checkpoint), "embedder": str(output / FOLDER_NAME)}
    assert f"{hub.url}/{PAPER_EMBEDDER}" in err
    check_mplug_owl2(output / FOLDER_NAME)


@pytest.mark.slow
def test_interrupted_command_exits_and_resumes_later(
    hub: LocalHub, checkpoint: Path, tmp_path: Path
) -> None:
    hub.stall[SHARDS[1]] = 100_000
    args = ("--output", str(tmp_path), "--checkpoint", str(checkpoint))
    process = command(*args, HF_ENDPOINT=hub.url)
    try:
        assert hub.stalled.wait(timeout=120)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Run the same command again" in err
    hub.go_on.set()

    check_mplug_owl2(fetch_mplug_owl2(tmp_path, hub.url))
    assert not list((tmp_path / FOLDER_NAME).rglob("*.incomplete"))
