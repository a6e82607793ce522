"""AGIQA-3k without its pictures: generated images under the real names, next to the real table.

    python tests/support/generated_agiqa_3k.py data/agiqa_3k

The images are blobs of color under noise that grows as the MOS falls, so that there is something
to learn. They are for trying the commands; no result on them says anything about AGIQA-3k.
"""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

TABLE = Path(__file__).resolve().parents[1] / "golden" / "agiqa_3k.csv"
_SIDE, _BLOBS, _NOISE = 64, 6, 25.0


def write_tree(folder: Path, count: int | None = None) -> Path:
    """Write `data.csv` and `images/`; returns the table's path.

    Args:
        folder: is made if it does not exist.
        count: rows to keep, spread over the table; all 2,982 by default.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(TABLE)
    if count is None:
        shutil.copyfile(TABLE, folder / "data.csv")
    else:
        table = table.iloc[np.linspace(0, len(table) - 1, count).astype(int)]
        table.to_csv(folder / "data.csv", index=False)
    for row, (name, mos) in enumerate(zip(table["name"], table["mos_quality"], strict=True)):
        picture = _picture(np.random.default_rng(row), float(mos))
        cv2.imwrite(str(folder / "images" / name), picture)
    return folder / "data.csv"


def _picture(rng: np.random.Generator, mos: float) -> np.ndarray:
    coarse = rng.integers(0, 256, (_BLOBS, _BLOBS, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, _NOISE * (5 - mos), smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.stdout.write(f"{write_tree(Path(sys.argv[1]))}\n")
