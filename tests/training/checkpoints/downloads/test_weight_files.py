import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ma_agiqa.checkpoints.weight_files import check_checkpoint, check_mplug_owl2
from ma_agiqa.errors import CheckpointError
from support.published_weights import INDEX, SHARDS, WEB_PAGE, write_small_checkpoint


def _remove_shard(folder: Path) -> None:
    (folder / SHARDS[2]).unlink()


def _empty_shard(folder: Path) -> None:
    (folder / SHARDS[2]).write_bytes(b"")


def _cut_shard(folder: Path) -> None:
    data = (folder / SHARDS[2]).read_bytes()
    (folder / SHARDS[2]).write_bytes(data[: len(data) // 2])


def _exchange_shards(folder: Path) -> None:
    shutil.copyfile(folder / SHARDS[0], folder / SHARDS[2])


def _change_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 32001}))


def _break_index(folder: Path) -> None:
    (folder / INDEX).write_bytes(WEB_PAGE)


def _remove_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def _remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove_shard, rf"{SHARDS[2]} is missing"),
        (_empty_shard, rf"{SHARDS[2]} is not a weight file.*\(0 bytes"),
        (_cut_shard, rf"{SHARDS[2]} is not a weight file, or only a part"),
        (_exchange_shards, r"does not fit the model. Tensors missing: "),
        (_change_sizes, r"embed_tokens\.weight \(32000, 128\) instead of \(32001, 128\)"),
        (_break_index, r"is not an index"),
        (_remove_index, r"has no weights"),
        (_remove_config, r"no config\.json"),
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
