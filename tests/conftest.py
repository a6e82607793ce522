"""Fixtures that several folders of tests share, and what pytest does here beyond its defaults."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.server import EmbeddedTriton
from ma_agiqa_client import Scorer
from support.blocking import Blocking
from support.servers import SHIPPED, serving
from support.stand_in.repository import write_stand_in

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_TOOLS = "MA_AGIQA_REQUIRE_TOOLS"


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Undo what a test does to PyTorch's number of threads: it changes the last bits of sums."""
    torch = sys.modules.get("torch")
    threads = torch and torch.get_num_threads()
    yield
    if torch:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedTriton]:
    """The shipped repository behind the real Triton. Tests only read from it.

    It also serves the model that answers questions, which refuses those to the demo's model. Tests
    that use it all run in one process, so they may count what it does.
    """
    with serving(SHIPPED, explain=True) as running:
        yield running


@pytest.fixture(scope="session")
def stand_in_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped repository with stand-ins for its networks, to start servers of. Only to read."""
    return write_stand_in(tmp_path_factory.mktemp("stand_in") / "models")


@pytest.fixture(scope="session")
def stand_in(stand_in_repository: Path) -> Iterator[EmbeddedTriton]:
    """A running server of `stand_in_repository`. Tests only read from it."""
    with serving(stand_in_repository) as running:
        yield running


@pytest.fixture(params=[Scorer, Blocking], ids=["threads", "asyncio"])
def kind(request: pytest.FixtureRequest) -> type:
    """Either kind of scorer, with the same methods."""
    return request.param


@pytest.fixture(scope="session")
def tiny_owl() -> dict[str, Any]:
    """The small mPLUG-Owl2: config, official state dict, token ids and reference outputs."""
    import numpy as np
    import torch

    from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config
    from support.reference import GOLDEN, official_tensors

    description = json.loads((GOLDEN / "mplug_owl2_tiny.json").read_text())
    with np.load(GOLDEN / "mplug_owl2_tiny.npz") as arrays:
        reference = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return {
        "config": description["config"],
        "state": official_tensors(description["parameters"]),
        "input_ids": description["input_ids"],
        "reference": reference,
        "build": lambda: MPlugOwl2Config(**description["config"]),
    }


def pytest_configure() -> None:
    """Give each of several test processes one thread to compute with: they share the cores.

    What is set for people's terminals and for other machines is none of the tests' business.
    """
    os.environ.pop("FORCE_COLOR", None)
    no_proxy = os.environ.get("no_proxy"), "127.0.0.1,localhost"
    os.environ["no_proxy"] = ",".join(filter(None, no_proxy))
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put all tests of the shipped server into one group, so that it is started once."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.get("server", ())
        if any(definition.baseid == "tests" for definition in definitions[-1:]):
            item.add_marker(pytest.mark.xdist_group("server"))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a file in one process, for their fixtures, and those of a group likewise."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFileOrGroup(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid).split("::")[0]

    return ByFileOrGroup(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    return _without_missing_tools((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    return _without_missing_tools((yield))


def _without_missing_tools(report: Any) -> Any:
    """Where every tool has to be there, make a failure of a skip, but for what a machine needs."""
    if os.environ.get(REQUIRE_TOOLS) and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith("needs "):
            report.outcome = "failed"
            report.longrepr = f"Skipped, which {REQUIRE_TOOLS} forbids: {reason}"
    return report
