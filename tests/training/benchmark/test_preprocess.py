"""The benchmark of preprocessing: both ways make the same pixels, and the numbers are stated."""

import re
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ma_agiqa.benchmark.official import OfficialPreprocess
from ma_agiqa.benchmark.preprocess import (
    generated_file,
    measure_official,
    measure_preprocess,
    prepare_once,
    prepare_twice,
)
from ma_agiqa.commands.benchmark import main
from ma_agiqa.lmm.embedder import CLIP_STD

DATA_SET = """
import cv2

class AIGCgeneral:
    def __init__(self, folder, labels, names, transform, keep_ratio, tensor_root):
        self.files = [f"{folder}/{name}" for name in names]
        self.transform = transform

    def __getitem__(self, index):
        pixels = cv2.cvtColor(cv2.imread(self.files[index]), cv2.COLOR_BGR2RGB)
        small = cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_CUBIC)
        small = small.astype("float32").transpose(2, 0, 1) / 255
        return self.transform({"d_img_org": small})
"""
TRANSFORMS = """
import torch

class Normalize:
    def __init__(self, mean, deviation):
        self.mean, self.deviation = mean, deviation

    def __call__(self, sample):
        return {"d_img_org": (sample["d_img_org"] - self.mean) / self.deviation}

class ToTensor:
    def __call__(self, sample):
        return {"d_img_org": torch.from_numpy(sample["d_img_org"])}
"""
SQUARES = """
import torch
from PIL import ImageOps

def process_images(images, processor, config):
    assert config.image_aspect_ratio == "pad"
    side = max(images[0].size)
    padded = [ImageOps.pad(image, (side, side), color=(122, 116, 104)) for image in images]
    return torch.stack([processor(image, return_tensors="pt").pixel_values[0] for image in padded])
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out as the authors' repository, with other code to the same pixels."""
    for file, code in {
        "data/AIGC_general.py": DATA_SET,
        "utils/process.py": TRANSFORMS,
        "mplug_owl2/mm_utils.py": SQUARES,
    }.items():
        path = tmp_path / "checkout" / file
        path.parent.mkdir(parents=True)
        path.write_text(code)
    return tmp_path / "checkout"


@pytest.mark.parametrize("size", [(64, 64), (120, 70), (70, 120)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_one_decoding_gives_the_pixels_of_two(size, image_format):
    data = generated_file(*size, image_format)
    for once, twice in zip(prepare_once(data, 56), prepare_twice(data, 56), strict=True):
        np.testing.assert_array_equal(once, twice)


def test_every_file_is_prepared_each_way():
    files = [generated_file(90, 60, "PNG", seed) for seed in range(3)]
    speed = measure_preprocess(files, semantic_size=56, threads=2, rounds=1)
    assert (speed.images, speed.equal_images, speed.threads) == (3, 3, 2)
    assert speed.megapixels == pytest.approx(90 * 60 / 1e6)
    parts = (speed.decode_s, speed.quality_s, speed.semantic_s)
    whole = (speed.seconds_per_image, speed.pooled_seconds_per_image, speed.twice_seconds_per_image)
    assert min(*parts, *whole) > 0


def test_the_command_states_every_number(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(generated_file(80, 60, "PNG"))
    done = CliRunner().invoke(main, ["preprocess", str(path), "--rounds=1", "--threads=2"])
    assert done.exit_code == 0, done.output
    assert "1 of 0.00 megapixels, 1 with the same pixels both ways" in done.stdout
    for word in ("once", "pool", "twice"):
        assert re.search(rf"^{word} +[\d.]+ ms/image, [\d,]+ images/s", done.stdout, re.MULTILINE)
    assert re.search(r"ratio +[\d.]+ one by one, [\d.]+ with the pool", done.stdout)


def test_the_other_code_gets_the_same_files(checkout):
    files = [generated_file(*size, "PNG") for size in ((90, 60), (60, 90), (70, 70))]
    with OfficialPreprocess(sys.executable, checkout, 56) as official:
        speed = measure_official(files, 56, official, rounds=1)
        *_, (quality, semantic) = official.prepare(files)
    assert min(speed.ours_s, speed.quality_s, speed.semantic_s) > 0
    # Newer transformers resize with torchvision, which rounds some pixels one level apart.
    assert speed.largest_difference <= 1.001 / 255 / min(CLIP_STD)
    assert (quality.shape, semantic.shape) == ((3, 3, 224, 224), (3, 3, 56, 56))
    assert quality.dtype == semantic.dtype == torch.float32


def test_other_pixels_are_seen(checkout):
    code = checkout / "mplug_owl2" / "mm_utils.py"
    code.write_text(SQUARES.replace("116", "255"))
    with OfficialPreprocess(sys.executable, checkout, 56) as official:
        speed = measure_official([generated_file(90, 60, "PNG")], 56, official, rounds=1)
    assert speed.largest_difference > 0.5


def test_the_command_compares(checkout):
    arguments = ["--size=64x48", "--rounds=1", "--semantic-size=56", "--official", str(checkout)]
    done = CliRunner().invoke(main, ["preprocess", *arguments])
    assert done.exit_code == 0, done.output
    assert re.search(r"official +[\d.]+ ms/image: [\d.]+ for MANIQA", done.stdout)
    assert re.search(r"ours .+: [\d.]+x faster, [\d.]+x for both prompts", done.stdout)
    assert re.search(r"inputs +largest difference \d", done.stdout)
    done = CliRunner().invoke(main, ["preprocess", *arguments[:-1], str(checkout / "data")])
    assert done.exit_code == 1
    assert "there is no data/AIGC_general.py" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "--size WIDTHxHEIGHT"), (["--size", "big"], "such as 1024x1024")],
)
def test_sizes_are_explained(arguments, said):
    done = CliRunner().invoke(main, ["preprocess", *arguments])
    assert done.exit_code == 1
    assert said in done.stderr
