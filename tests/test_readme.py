"""Every block of the READMEs and the client's pages runs, and prints what the page says."""

import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import tomllib
import trustme
from click.testing import CliRunner

from ma_agiqa_client.app._command import main as app
from ma_agiqa_client.bulk._command import main as bulk
from ma_agiqa_client.cli import main as cli
from ma_agiqa_client.rewards.__main__ import main as rewards

ROOT = Path(__file__).resolve().parent.parent
README, CLIENT, REFERENCE, BULK, TRAINING = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in (
        *("README.md", "client/README.md", "docs/client-reference.md", "docs/bulk.md"),
        "training/README.md",
    )
)


def blocks(text: str, *kinds: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind in kinds]


COMMANDS = [
    line for block in blocks(README + CLIENT + REFERENCE, "sh") for line in block.splitlines()
]
WRITING = ("--output", "--report", "--maps", "--resume", "--copy-best")


def test_every_block_is_of_a_kind_that_is_run():  # tests/test_docs.py looks for the tasks of make
    kinds = re.findall(r"^```(\w+)\n", README + CLIENT + REFERENCE, re.MULTILINE)
    assert set(kinds) == {"python", "sh"}
    known = ("make ", "python client/score.py ", "source .venv/bin/activate", "pip ", "python -m ")
    assert [command for command in COMMANDS if not command.startswith(known)] == []


@pytest.mark.parametrize(
    ("command", "page"), [(cli, REFERENCE), (app, REFERENCE), (rewards, REFERENCE), (bulk, BULK)]
)
def test_every_option_is_described(command, page):
    options = {name for option in command.params for name in option.opts if name[:2] == "--"}
    described = page + REFERENCE.partition("These options are the same in all commands")[2]
    assert [name for name in options if f"`{name}" not in described] == []


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """What looks like the clone's root, with the certificates that the examples name."""
    for name in ("client", "deploy", "examples", "export", "model_repository", "training"):
        (tmp_path / name).symlink_to(ROOT / name)
    issuer = trustme.CA()
    certificate = issuer.issue_cert("client")
    issuer.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "client.key")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("code", blocks(README + TRAINING + CLIENT + REFERENCE, "python"))
def test_python(code, server, capsys):
    exec(compile(code.replace("localhost:8001", server.grpc_url), "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.split()
    assert ("False" in shown) == ("example.org" in code)  # no server is there


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python ")])
def test_commands(command, server):
    words = shlex.split(command, comments=True)[1:]
    done = run(sys.executable, *words, "--url", server.grpc_url)
    assert done.returncode == 0, done.stderr
    written = [Path(words[place + 1]) for place, word in enumerate(words) if word in WRITING]
    assert all(path.is_file() or any(path.iterdir()) for path in written)
    assert "--output" in words or "pristine" in done.stdout


@pytest.mark.usefixtures("clone")
def test_the_printed_lines_are_the_real_ones(server):
    (shown,) = (text for text in blocks(README, "") if "pristine" in text)
    done = CliRunner().invoke(cli, ["examples", "--url", server.grpc_url])
    printed = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    for expected in filter(None, shown.replace("...\n", "").splitlines()):
        words = printed[expected.split()[0]]
        for word, number in zip(words, expected.split(), strict=True):
            if re.fullmatch(r"[\d.]+%?", number):
                difference = abs(float(word.rstrip("%")) - float(number.rstrip("%")))
                assert difference <= (1 if "." not in number else 0.002)
            else:
                assert word == number


def run(*command: object, **options) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options
    )


@pytest.fixture
def source(tmp_path):
    """A copy of the package's source, because a build writes next to it."""
    run("cp", "-r", ROOT / "client", tmp_path)
    return tmp_path


def test_every_extra_exists():
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text("utf-8"))["project"]
    named = set(re.findall(r"\./client\[(\w+)\]", CLIENT + REFERENCE + BULK))
    assert named == set(project["optional-dependencies"])


def test_installing(source):
    """Without the network: the package alone, into a separate folder."""
    target = source / "installed"
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--target", target)
    command = next(command for command in COMMANDS if command.startswith("pip "))
    done = run(sys.executable, "-m", *shlex.split(command), *options, cwd=source)
    assert done.returncode == 0, done.stderr
    assert (target / "ma_agiqa_client" / "py.typed").is_file()
    assert not (target / "examples").exists()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    shown = run(target / "bin" / "ma-agiqa", "--help", env=environment).stdout
    assert "  ma-agiqa imgs/ --top 2 --copy-best best/" in shown
    assert "score.py" not in shown


SECONDS = "from time import time; t = time(); import ma_agiqa_client; print(time() - t)"


@pytest.mark.slow
@pytest.mark.parametrize("numpy", ["numpy<2", "numpy>=2"])
def test_a_clean_environment(numpy, source, server):
    """With the network: few packages, a quick import, and scores, with NumPy 1 and 2."""
    pins = source / "pins.txt"
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins.write_text("\n".join(line for line in lines if not line.startswith("numpy==")))
    venv.create(source / "venv", with_pip=True)
    python = source / "venv" / "bin" / "python"
    done = run(python, "-m", "pip", "install", "-q", "-c", pins, "./client", numpy, cwd=source)
    assert done.returncode == 0, done.stderr
    packages = run(python, "-m", "pip", "list", "--format=freeze").stdout.split()
    assert len(packages) - len({"pip", "setuptools"}) <= 18, packages
    seconds = [float(run(python, "-c", SECONDS).stdout) for _ in range(3)]
    assert min(seconds) < 1, seconds  # 0.2 s on a quiet machine
    done = run(source / "venv" / "bin" / "ma-agiqa", ROOT / "examples", "--url", server.grpc_url)
    assert done.returncode == 0, done.stderr
    assert "pristine" in done.stdout
