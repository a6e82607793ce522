"""Every page: its links, files, tasks and commands exist, and the lists of them are complete."""

import json
import re
import shlex
from importlib.resources import files
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from click.testing import CliRunner

import queue_policy_stall
import replica_simulation
import serve
from exporter.commands import main as to_triton
from load.bench import main as bench
from ma_agiqa.__main__ import main as ma_agiqa
from ma_agiqa_client.app._command import main as app
from ma_agiqa_client.bulk._command import main as bulk
from ma_agiqa_client.cli import main as score
from ma_agiqa_client.rewards.__main__ import main as rewards

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = "client|deploy|docs|examples|export|model_repository|tests|training"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ["*.md", *(f"{folder}/**/*.md" for folder in FOLDERS.split("|"))]
    for path in ROOT.glob(pattern)
}
PROGRAMS: dict[str, click.Command] = {
    "python -m ma_agiqa": ma_agiqa,
    "python client/score.py": score,
    "python client/app.py": app,
    "python client/bulk.py": bulk,
    "python -m ma_agiqa_client.rewards": rewards,
    "python export/to_triton.py": to_triton,
    "python deploy/serve.py": serve.main,
    "python deploy/load/bench.py": bench,
    "python docs/experiments/replica_simulation.py": replica_simulation.main,
    "python docs/experiments/queue_policy_stall.py": queue_policy_stall.main,
}
TASKS = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
every_page = pytest.mark.parametrize("page", PAGES)


def command_lines(text: str) -> list[tuple[click.Command, list[str]]]:
    """The commands in a page that have options and are not abridged, with their arguments."""
    found = []
    for line in re.findall(r"\b(?:python|torchrun) [^`\n]+", text.replace("\\\n", " ")):
        for program, command in PROGRAMS.items():
            before, called, after = line.partition(f"{program.removeprefix('python')} ")
            whole = " -" in f" {after}" and not re.search(r"\.\.\.|COMMAND", after)
            if called and whole and before.startswith(("python", "torchrun")):
                words = shlex.split(re.split(r" [|<>&]", after)[0], comments=True)
                found.append((command, words))
    return found


@every_page
def test_commands_can_be_parsed(page, monkeypatch):
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: value)  # need not exist
    for command, words in command_lines(PAGES[page]):
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 0, f"{words}: {done.output}"


@every_page
def test_python_blocks_are_python(page):  # those of the READMEs and the client's pages also run
    for block in re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE):
        compile(block, page, "exec")


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[page]):
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), anchor


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"CHANGELOG.md"}))  # it names what is gone
def test_files_and_tasks_that_are_named_exist(page):
    text, folder = PAGES[page], (ROOT / page).parent
    for named in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*-]+", text):
        assert list(ROOT.glob(named.removesuffix("/N/").rstrip("./"))), named
    for named in re.findall(r"`((?:configs|checkpoints|components)/[\w./-]+)`", text):
        assert list(folder.glob(f"**/{named}")), named
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= TASKS


def test_every_page_is_in_the_index():
    linked = re.findall(r"\]\(([^)#]+)\)", PAGES["docs/README.md"])
    named = {str((ROOT / "docs" / link).resolve().relative_to(ROOT)) for link in linked}
    assert named == set(PAGES) - {"docs/README.md"}


def leaves(command: click.Command, name: str) -> list[str]:
    if not isinstance(command, click.Group):
        return [name]
    context = click.Context(command)
    parts = [(command.get_command(context, word), word) for word in command.list_commands(context)]
    return [leaf for part, word in parts for leaf in leaves(part, f"{name} {word}")]


def test_the_list_of_commands_is_complete_and_all_have_help():
    rows = re.findall(r"^\| (`.*?) \|", PAGES["docs/commands.md"], re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {name[5:] for name in listed if name.startswith("make ")} == TASKS
    for program, command in PROGRAMS.items():
        names = leaves(command, program)
        assert set(names) == {name for name in listed if f"{name} ".startswith(f"{program} ")}
        for name in names:
            words = [*name.removeprefix(program).split(), "--help"]
            assert CliRunner().invoke(command, words).output.startswith("Usage: ")
    for pattern in ("client/*.py", "client/examples/*.py", "export/*.py", "deploy/*.py"):
        assert {f"python {path.relative_to(ROOT)}" for path in ROOT.glob(pattern)} <= {
            re.sub(r"(\.py) .*", r"\1", name) for name in listed
        }


def test_the_citation_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    schema = files("check_jsonschema.builtin_schemas.vendor") / "citation-file-format.json"
    jsonschema.validate(citation, json.loads(schema.read_text(encoding="utf-8")))
    assert citation["version"] == (ROOT / "VERSION").read_text(encoding="utf-8").strip()
