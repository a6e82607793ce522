"""Print what this repository needs at run time, without torch, as pins of the environment.

`check.py` carries these packages to a machine that has torch but no network.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WANTED = ("ma-agiqa[train,export,embedded]", "ma-agiqa-client", "pytest", "setuptools", "trustme")
OURS = ("ma-agiqa", "ma-agiqa-client")
ON_THE_MACHINE = ("torch", "torchvision")  # with all that they need: several GB


def needed() -> dict[str, str]:
    """Versions by name of all that is wanted, ours and what the machine has left out."""
    versions: dict[str, str] = {}
    waiting = [Requirement(name) for name in WANTED]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or name in ON_THE_MACHINE:
            continue
        seen.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed here: run `make install`, and use its Python.")
        if name not in OURS:
            versions[name] = found.version
        waiting += _requirements(found.requires or [], requirement.extras)
    return versions


def _requirements(lines: list[str], extras: set[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


if __name__ == "__main__":
    for name, version in sorted(needed().items()):
        sys.stdout.write(f"{name}=={version}\n")
