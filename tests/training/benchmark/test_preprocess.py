"""The benchmark of preprocessing: both ways make the same pixels, and the numbers are stated."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

from ma_agiqa.benchmark.preprocess import (
    generated_file,
    measure_preprocess,
    prepare_once,
    prepare_twice,
)
from ma_agiqa.commands.benchmark import main


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "--size WIDTHxHEIGHT"), (["--size", "big"], "such as 1024x1024")],
)
def test_sizes_are_explained(arguments, said):
    done = CliRunner().invoke(main, ["preprocess", *arguments])
    assert done.exit_code == 1
    assert said in done.stderr
