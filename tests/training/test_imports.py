"""What imports what: the rooms of `ma_agiqa` in one direction, and what a served model needs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "training" / "ma_agiqa"
SERVED = [
    *sorted((ROOT / "model_repository").glob("*/1/model.py")),
    ROOT / "deploy" / "embedded" / "pytorch_backend" / "model.py",
]

FLOORS = (
    {"allocator", "errors", "tensors"},
    {"files", "settings", "torchrun", "images", "networks", "metrics", "serving"},
    {"file_hashes"},
    {"lmm"},
    {"checkpoints", "data"},
    {"pipeline", "train"},
    {"evaluate", "benchmark"},
    {"commands"},
    {"__main__"},
)
"""A room imports from itself and from lower floors (those before) only."""

SERVED_LIBRARIES = {
    *("torch", "transformers", "safetensors", "numpy", "cv2", "PIL"),  # the base dependencies
    "huggingface_hub",  # a dependency of transformers
    "sentencepiece",  # the extra `answers`
}
NOT_SERVED = ["timm", "torchvision", "click", "pandas", "scipy", "matplotlib", "accelerate"]


def imports(path: Path) -> Iterator[str]:
    """The absolute names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> dict[str, Path]:
    """The files of the package by the names of their modules."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def graph() -> dict[str, set[str]]:
    """Which modules of the package each imports; a package stands for its `__init__`."""
    files = modules()
    found = {}
    del files["ma_agiqa"]  # imports nothing but on demand
    for name, path in files.items():
        targets = {t if t in files else t.rpartition(".")[0] for t in imports(path)}
        found[name] = targets & files.keys()
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_rooms_import_from_lower_floors_only():
    floor = {name: index for index, names in enumerate(FLOORS) for name in names}
    wrong = set()
    for module, targets in graph().items():
        for target in targets:
            ours, theirs = room(module), room(target)
            if ours != theirs and floor[theirs] >= floor[ours]:
                wrong.add((ours, theirs))
    assert wrong == set()


def test_nothing_but_served_models_imports_what_is_for_serving():
    arrows = {(room(module), room(t)) for module, targets in graph().items() for t in targets}
    allowed = {("serving", name) for name in ("serving", "errors", "tensors")}
    assert {arrow for arrow in arrows if "serving" in arrow} <= allowed


def test_no_modules_import_one_another_in_a_circle():
    below = graph()
    while leaves := [module for module, targets in below.items() if not targets & below.keys()]:
        for module in leaves:
            del below[module]
    assert not below


def test_click_is_for_commands_alone():
    users = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "click" for name in imports(path))
    }
    assert {user for user in users if not user.startswith("commands/")} == {"__main__.py"}


def served_closure() -> set[str]:
    """Every module of the package that a served model imports, at once or later."""
    below, files = graph(), modules()
    found: set[str] = set()
    following = {
        name if name in files else name.rpartition(".")[0]
        for path in SERVED
        for name in imports(path)
        if name.startswith("ma_agiqa.")
    }
    while following:
        found |= following
        following = {target for module in following for target in below[module]} - found
    return found


def test_served_models_import_a_small_part_of_the_package():
    closure = served_closure()
    rooms = {room(module) for module in closure} - {"networks"}
    needed = {"errors", "tensors", "images", "lmm", "serving"}
    assert needed <= rooms <= needed | {"files", "file_hashes", "allocator"}  # for loading
    assert {module for module in closure if room(module) == "networks"} == {
        "ma_agiqa.networks.exact_loading",
        "ma_agiqa.networks.precision",
    }
    files = modules()
    libraries = {name.split(".")[0] for module in closure for name in imports(files[module])} - set(
        sys.stdlib_module_names
    )
    assert libraries - {"ma_agiqa"} <= SERVED_LIBRARIES


def test_served_models_import_without_the_libraries_of_training():
    """Their absence is simulated, as transformers imports some of them where they are installed."""
    code = (
        "import importlib.util, os, sys, types\n"
        f"sys.modules.update(dict.fromkeys({NOT_SERVED}))\n"
        "sys.modules['triton_python_backend_utils'] = types.ModuleType('pb_utils')\n"
        f"for path in {list(map(str, SERVED))}:\n"
        "    sys.path.insert(0, os.path.dirname(path))\n"
        "    spec = importlib.util.spec_from_file_location('model', path)\n"
        "    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "from ma_agiqa.lmm.sources import build_embedder; build_embedder()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
