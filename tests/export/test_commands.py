"""The command line: commands, their options, and what they say."""

import shutil

import click.testing
import pytest

from exporter import commands, versions
from exporter.commands import main
from exporter.new_version import NewVersion
from support.servers import SHIPPED


def run(*words: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def published(monkeypatch) -> list[NewVersion]:
    """The versions that the command would have written."""
    versions: list[NewVersion] = []
    monkeypatch.setattr(NewVersion, "publish", lambda new: versions.append(new) or len(versions))
    monkeypatch.setattr(commands, "ModelControl", lambda *_: pytest.fail("a server was contacted"))
    return versions


@pytest.mark.parametrize("words", [(), ("export",), ("--device", "cpu"), ("export", "--keep", "3")])
def test_without_a_command_the_demo_model_is_exported(published, words):
    done = run(*words)
    assert done.exit_code == 0, done.output
    (new,) = published
    assert (new.source.card.name, new.repository) == ("ma-agiqa-demo", SHIPPED)
    assert (new.embedder.source, new.embedder.dtype) == ("demo", "float32")
    assert new.keep == (3 if "3" in words else 2)
    assert done.stdout.startswith(
        f"Wrote version 1 of ma-agiqa-demo to {SHIPPED} (mPLUG-Owl2: demo"
    )


def test_the_demo_is_exported_next_to_a_folder_of_its_name(published, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run().exit_code == 0
    assert published[0].embedder.source == "demo"


@pytest.mark.parametrize(("given", "served"), [("int8", "int8"), ("bf16", "bfloat16")])
def test_a_dtype_is_served_under_its_long_name(published, given, served):
    done = run("--dtype", given)
    assert [new.embedder.dtype for new in published] == [served]
    assert served in done.stdout
    told = f"benchmark dtypes --embedder demo --checkpoint {commands.DEMO_CHECKPOINT} --dtype int8"
    assert (told in done.stderr) == (given == "int8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--preset", "paper"], "Fetch it with `make paper`"),
        (["--preset", "paper", "--checkpoint", commands.DEMO_CHECKPOINT], "not 'paper'. Leave"),
        (["--checkpoint", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["--preset", "huge"], "'huge' is not one of"),
        (["--dtype", "int3"], "'int3' is not one of"),
        (["activate", "localhost:9", "--dtype", "int8"], "have mPLUG-Owl2 in float32, not int8"),
        (["activate", "localhost:9", "--device", "gpu"], "No such option '--device'"),
        (["activate"], "Missing argument 'HOST:PORT...'"),
        (["rollback", "localhost:9", "--checkpoint", "x"], "No such option '--checkpoint'"),
        (["list", "--keep", "3"], "No such option '--keep'"),
        (["forget", "1", "--to", "2"], "No such option '--to'"),
        (["export", "--admin-key-file", "x"], "No such option '--admin-key-file'"),
        (["rollback", "localhost:9", "--tls-cert", __file__], "--tls-cert and --tls-key"),
        (["rollback", "localhost:9", "--admin-key-file", "x"], "There is no key file x"),
        (["deactivate"], "No such command 'deactivate'"),
    ],
)
def test_what_a_command_cannot_use_ends_in_a_sentence(words, sentence):
    done = run(*words)
    assert done.exit_code != 0
    assert sentence in done.stderr
    assert isinstance(done.exception, SystemExit)  # no traceback


def test_the_help_says_what_runs_without_a_command():
    shown = run("--help").stdout
    assert "Without a command, `export` runs" in shown
    for name in ("export", "activate", "rollback", "list", "forget"):
        assert f"\n  {name} " in shown
        assert "python export/to_triton.py" in run(name, "--help").stdout


def test_versions_are_listed_and_forgotten_without_a_server(repository, published):
    active = versions.read_config(repository, "ma_agiqa")
    shutil.copytree(repository / "maniqa_moe" / "1", repository / "maniqa_moe" / "2")
    versions.write_version(repository, 2, active)
    listed = run("list", "--repository", repository).stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [["2", "kept"], ["1", "active"]]
    refused = run("forget", 1, "--repository", repository)
    assert "Version 1 cannot be removed" in refused.stderr
    assert "not active are 2" in refused.stderr
    assert run("forget", 2, "--repository", repository).stdout.startswith("Removed version 2.")
    assert versions.kept_versions(repository) == [1]
    assert run("list", "--repository", repository / "empty").stdout.startswith("No versions in")
