import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session

from ma_agiqa.lmm.sources import PAPER_EMBEDDER
from support.local_hub import LocalHub, free_port
from support.published_weights import write_mplug_owl2
from support.reference import GOLDEN


@pytest.fixture(autouse=True)
def fresh_connections() -> Iterator[None]:
    """Make the hub's library read the proxy settings again: it keeps its connections."""
    close_session()
    yield
    close_session()


@pytest.fixture(scope="session")
def published(tiny_owl: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the published mPLUG-Owl2, at a small size."""
    folder = tmp_path_factory.mktemp("published")
    write_mplug_owl2(folder, tiny_owl["config"], tiny_owl["state"])
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A local hub that serves a copy of the published folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    folder = shutil.copytree(published, tmp_path / "served")
    with LocalHub(folder, PAPER_EMBEDDER) as running:
        yield running


@pytest.fixture(scope="session")
def shapes() -> dict[str, list[int]]:
    return json.loads((GOLDEN / "ma_agiqa_full_parameters.json").read_text())


@pytest.fixture(scope="session")
def checkpoint(
    shapes: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file of the checkpoint's names, shapes and dtype, at its full size of 658 MB."""
    path = tmp_path_factory.mktemp("checkpoint") / "AGIQA_3k.pt"
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    yield path
    path.unlink()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every connection to a port where nothing listens."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv(name.lower(), nowhere)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
def fill_disk() -> Callable[..., None]:
    """Something that fails as a write to a full disk does."""

    def write(*args: object, **kwargs: object) -> None:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    return write
