"""KServe's resources against the types in the wheel of its Python SDK, which is not imported.

Each module of `kserve/models` holds a class made from KServe's Go types, with two tables: the JSON
name and the type of every attribute. Types of Kubernetes itself are not in the wheel; they are left
to `kubernetes_validate`.
"""

import ast
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_WORD = re.compile(r"V\d+(?:(?:alpha|beta)\d+)?|[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z0-9]+|[A-Z]+")
"""Words of a class name such as V1beta1LLMInferenceService, which its file's name is made of."""

_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "object": (object,),
}


class KServeTypes:
    """The types of one version of KServe."""

    def __init__(self, wheel: Path):
        self._wheel = wheel

    def errors(self, value: Any, type_name: str, where: str = "") -> Iterator[str]:
        """Say what does not fit.

        Args:
            value: what YAML gave.
            type_name: as the tables name it: `str`, `list[V1beta1X]`, `dict(str, str)`, `V1beta1X`.
            where: path of the value.
        """
        if found := re.fullmatch(r"list\[(.+)\]", type_name):
            yield from self._of_list(value, found[1], where)
        elif type_name.startswith("dict("):
            if not isinstance(value, dict):
                yield f"{where}: expected a mapping, got {value!r}"
        elif type_name in _PLAIN:
            fits = isinstance(value, _PLAIN[type_name])
            if not fits or (isinstance(value, bool) and type_name == "int"):
                yield f"{where}: expected {type_name}, got {value!r}"
        elif tables := self._tables(type_name):
            yield from self._of_object(value, *tables, where)

    def _of_list(self, value: Any, item: str, where: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{where}: expected a list, got {value!r}"
            return
        for index, entry in enumerate(value):
            yield from self.errors(entry, item, f"{where}[{index}]")

    def _of_object(
        self, value: Any, types: dict[str, str], names: dict[str, str], where: str
    ) -> Iterator[str]:
        if not isinstance(value, dict):
            if types:  # an empty table stands for a type with a form of its own, as a quantity
                yield f"{where}: expected a mapping, got {value!r}"
            return
        known = {names[attribute]: type_name for attribute, type_name in types.items()}
        for name, entry in value.items():
            if name not in known:
                yield f"{where}.{name}: there is no such field"
            else:
                yield from self.errors(entry, known[name], f"{where}.{name}")

    @cache  # noqa: B019 - lives as long as the tests
    def _tables(self, type_name: str) -> tuple[dict[str, str], dict[str, str]] | None:
        """Types and JSON names of a class of KServe; None for one of Kubernetes."""
        words = _WORD.findall(type_name)
        file = f"kserve/models/{'_'.join(words).lower()}.py"
        with zipfile.ZipFile(self._wheel) as archive:
            if file not in archive.namelist():
                return None
            tree = ast.parse(archive.read(file))
        tables = {
            target.id: ast.literal_eval(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id in ("openapi_types", "attribute_map")
        }
        return tables["openapi_types"], tables["attribute_map"]
