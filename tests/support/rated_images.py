"""Small rated images on disk, and a config that names them."""

import csv
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ma_agiqa.data import RatedImage

ROOT = Path(__file__).resolve().parents[2]


def write_images(folder: Path, count: int, side: int = 40) -> list[RatedImage]:
    """Noise on a ramp, each image a different one; rows as in the `data.csv` next to them."""
    rng = np.random.default_rng(count)
    (folder / "images").mkdir(parents=True)
    images = []
    for index in range(count):
        name = f"{index:03}.png"
        path = folder / "images" / name
        ramp = np.linspace(0, 200 * rng.random(), side)[:, None, None]
        noise = rng.integers(0, 56, (side, side + index % 7, 3))
        Image.fromarray((ramp + noise).astype(np.uint8)).save(path)
        images.append(RatedImage(name, path, index % 6 * 0.9, name, row=index + 2))
    with open(folder / "data.csv", "w", newline="") as file:
        rows = [("image", "mos"), *((image.name, image.mos) for image in images)]
        csv.writer(file).writerows(rows)
    return images


def write_config(folder: Path, **features: object) -> Path:
    """The demo's settings for the images of `write_images`, with settings of the features."""
    settings = yaml.safe_load((ROOT / "training" / "configs" / "demo.yaml").read_text())
    settings["output"] = str(folder / "run")
    settings["data"] = {"name": "noise", "csv": str(folder / "data.csv")}
    settings["split"] |= {"validation": 0.2, "test": 0.2}
    settings["features"] = features
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
