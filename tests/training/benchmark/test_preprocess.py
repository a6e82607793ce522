"""The benchmark of preprocessing: both ways make the same pixels."""

import numpy as np
import pytest

from ma_agiqa.benchmark.preprocess import (
    count_equal,
    generated_file,
    measure_preprocess,
    prepare_once,
    prepare_twice,
)


@pytest.mark.parametrize("size", [(64, 64), (120, 70), (70, 120)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_one_decoding_gives_the_pixels_of_two(size, image_format):
    data = generated_file(*size, image_format)
    for once, twice in zip(prepare_once(data, 56), prepare_twice(data, 56), strict=True):
        np.testing.assert_array_equal(once, twice)


def test_every_way_and_every_part_is_timed():
    files = [generated_file(90, 60, "PNG", seed) for seed in range(3)]
    assert count_equal(files, 56) == 3
    rows = list(measure_preprocess(files, semantic_size=56, threads=2, rounds=1))
    parts = ["decoding", "quality view", "semantic view"]
    assert [row["work"] for row in rows] == ["twice", "once", *parts, "once, 2 threads"]
    assert all(row["ms/image"] > 0 for row in rows)
    assert rows[0]["speedup"] == 1
    assert rows[1]["images/s"] == pytest.approx(1000 / rows[1]["ms/image"])
