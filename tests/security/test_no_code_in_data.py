"""No source reads data in a way that would run code hidden in it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("client", "training", "export", "deploy", "model_repository")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

LOADERS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads"),
    *("cloudpickle.load", "cloudpickle.loads", "joblib.load", "marshal.load", "marshal.loads"),
    *("shelve.open", "pandas.read_pickle", "pd.read_pickle", "eval", "exec", "os.system"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}


def findings(source: str) -> Iterator[str]:
    """Calls in a source that may run code out of data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "marshal"):
            yield f"from {node.module} import ..."
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in LOADERS:
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        for argument in ("allow_pickle", "shell", "trust_remote_code"):
            if given.get(argument, "False") != "False":
                yield f"{name}({argument}={given[argument]})"


def test_every_source_is_searched():
    assert len(SOURCES) > 100
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(FOLDERS)


def test_no_source_runs_code_out_of_data():
    found = {
        str(path.relative_to(ROOT)): list(findings(path.read_text(encoding="utf-8")))
        for path in SOURCES
    }
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(data)",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "eval(text)",
    ],
)
def test_the_search_finds(source):
    assert len(list(findings(source))) == 1


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "model.eval()", "np.load(path)", "pickle.dumps(x)"],
)
def test_the_search_passes(source):
    assert list(findings(source)) == []
