"""Every block of client/README.md runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "client" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
WRITING = ("--output", "--report", "--maps", "--resume", "--copy-best")
COMMANDS = [line for name, text in BLOCKS if name == "sh" for line in text.splitlines()]


def test_every_block_is_of_a_kind_that_is_run():
    assert {name for name, _ in BLOCKS} == {"python", "sh"}
    assert {shlex.split(command)[0] for command in COMMANDS} == {"pip", "python"}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The clone's root, with the certificates that the examples name."""
    for name in ("client", "deploy", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    issuer = trustme.CA()
    certificate = issuer.issue_cert("client")
    issuer.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "client.key")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("code", [text for name, text in BLOCKS if name == "python"])
def test_python(code, server, capsys):
    exec(compile(code.replace("localhost:8001", server.grpc_url), "README.md", "exec"), {})
    shown = capsys.readouterr().out.split()
    assert shown
    assert ("False" in shown) == ("example.org" in code)  # nobody is there


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("pip ")])
def test_installing(command, tmp_path):
    """Without the network: the package alone, into a folder of its own."""
    copy = tmp_path / "clone"
    copy.mkdir()
    subprocess.run(["cp", "-r", ROOT / "client", copy], check=True)
    options = [
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        tmp_path / "installed",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command), *options],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed" / "ma_agiqa_client" / "py.typed").is_file()
    assert not (tmp_path / "installed" / "benchmarks").exists()
    shown = subprocess.run(
        [tmp_path / "installed" / "bin" / "ma-agiqa", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "  ma-agiqa imgs/ --top 2 --copy-best best/" in shown
    assert "score.py" not in shown


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python ")])
def test_commands(command, server):
    words = shlex.split(command, comments=True)[1:]
    done = subprocess.run(
        [sys.executable, *words, "--url", server.grpc_url],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = [Path(words[place + 1]) for place, word in enumerate(words) if word in WRITING]
    assert all(path.is_file() or any(path.iterdir()) for path in written)
    if "throughput" in command:
        assert re.search(r"score_many: \d+% of the best of the others", done.stdout)
    elif "--output" not in words:
        assert "pristine" in done.stdout
