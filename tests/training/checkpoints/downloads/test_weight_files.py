import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ma_agiqa.checkpoints.weight_files import check_checkpoint, check_mplug_owl2
from ma_agiqa.errors import CheckpointError
from support.published_weights import INDEX, SHARDS, WEB_PAGE, write_small_checkpoint


def _cut_shard(folder: Path) -> None:
    data = (folder / SHARDS[2]).read_bytes()
    (folder / SHARDS[2]).write_bytes(data[: len(data) // 2])


def _change_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 32001}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / SHARDS[2]).unlink(), rf"{SHARDS[2]} is missing"),
        (
            lambda folder: (folder / SHARDS[2]).write_bytes(b""),
            rf"{SHARDS[2]} is not a weight file.*\(0 bytes",
        ),
        (_cut_shard, rf"{SHARDS[2]} is not a weight file, or only a part"),
        (
            lambda folder: shutil.copyfile(folder / SHARDS[0], folder / SHARDS[2]),
            r"does not fit the model. Tensors missing: ",
        ),
        (_change_sizes, r"embed_tokens\.weight \(32000, 128\) instead of \(32001, 128\)"),
        (lambda folder: (folder / INDEX).write_bytes(WEB_PAGE), r"is not an index"),
        (lambda folder: (folder / INDEX).unlink(), r"has no weights"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
    ],
)
def test_damaged_folder_is_told_apart(
    published: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(published, tmp_path / "owl")
    check_mplug_owl2(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=said):
        check_mplug_owl2(folder)


def test_full_size_checkpoint_is_accepted(checkpoint: Path) -> None:
    assert checkpoint.stat().st_size > 650e6
    check_checkpoint(checkpoint)


def test_truncated_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with open(checkpoint, "rb") as file:
        (tmp_path / "cut.pt").write_bytes(file.read(20_000_000))
    with pytest.raises(CheckpointError, match="damaged"):
        check_checkpoint(tmp_path / "cut.pt")


def test_checkpoint_of_before_2024_09_28(shapes: dict[str, list[int]], tmp_path: Path) -> None:
    old = {n: s for n, s in shapes.items() if not n.startswith(("fc4096_784_a2", "fc4096_784_b2"))}
    assert len(old) < len(shapes)
    with pytest.raises(CheckpointError, match="2024-09-28"):
        check_checkpoint(write_small_checkpoint(tmp_path / "old.pt", old))


def test_checkpoint_of_another_shape(shapes: dict[str, list[int]], tmp_path: Path) -> None:
    other = {**shapes, "gating.weight": [3, 100]}
    with pytest.raises(CheckpointError, match=r"\(3, 100\)"):
        check_checkpoint(write_small_checkpoint(tmp_path / "other.pt", other))
