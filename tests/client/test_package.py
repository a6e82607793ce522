"""The public names, the order of the modules, and what the import must not bring along."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ma_agiqa_client

FOLDER = Path(ma_agiqa_client.__file__).parent
FLOORS = [
    {"errors"},
    {"retry", "score", "connection"},
    {"card"},
    {"comparison"},
    {"_core"},
    {"_wire", "explain"},
    {"_base"},
    {"scorer", "async_scorer"},
    {"_programs"},
    {"cli", "rewards", "bulk"},
    {"app"},
]
"""A module imports only from earlier floors, and from its own package."""


def test_every_public_class_is_exported():
    modules = [p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_")]
    names = {"Transport", "AsyncTransport"}
    for module in map(importlib.import_module, (f"ma_agiqa_client.{name}" for name in modules)):
        names |= {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    assert ma_agiqa_client.__all__ == sorted(names)


def test_every_error_is_a_client_error_and_nothing_else():
    errors = [getattr(ma_agiqa_client, name) for name in ma_agiqa_client.__all__ if "Error" in name]
    assert len(errors) == 12
    for error in errors:
        assert error is ma_agiqa_client.ClientError or error.__bases__ == (
            ma_agiqa_client.ClientError,
        )


def imported(path):
    """The modules of this package that a file imports, by name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("ma_agiqa_client."))


def test_imports_point_one_way():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for path in FOLDER.rglob("*.py"):
        room = path.relative_to(FOLDER).with_suffix("").parts[0]
        for other in set(imported(path)) if room != "__init__" else ():
            assert other == room or floor[other] < floor[room], f"{path} imports {other}"


HEAVY = ("torch", "transformers", "timm", "cv2", "scipy", "pandas", "ma_agiqa", "click", "rich")
HEAVY += ("opentelemetry", "matplotlib", "nicegui", "ray", "pyarrow", "aiohttp", "requests")
HEAVY += ("fastapi", "uvicorn")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("ma_agiqa_client", (*HEAVY, "urllib.request")), ("ma_agiqa_client.rewards", HEAVY)],
)
def test_the_import_is_light(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
