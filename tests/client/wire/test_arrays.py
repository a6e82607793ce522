"""Arrays and tensors as PPM: every case is decoded again with Pillow."""

import numpy as np
import pytest
import torch

from ma_agiqa_client import InvalidImageError
from ma_agiqa_client._wire.arrays import encode_array, is_batch, on_the_cpu
from support.pictures import decoded_ppm

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 9), dtype=np.uint8)
CHW = np.moveaxis(RGB, 2, 0)


@pytest.mark.parametrize("array", [RGB, GRAY, RGB[:, ::2], np.asfortranarray(RGB), RGB[::-1]])
def test_uint8_arrays_keep_every_sample(array):
    np.testing.assert_array_equal(decoded_ppm(encode_array(array)), array)


def test_a_channel_axis_of_one_is_gray():
    np.testing.assert_array_equal(decoded_ppm(encode_array(GRAY[:, :, None])), GRAY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_0_1_give_back_the_8_bits_they_came_from(dtype):
    every_value = np.arange(256, dtype=np.uint8).reshape(16, 16)
    array = (every_value / 255).astype(dtype)
    np.testing.assert_array_equal(decoded_ppm(encode_array(array)), every_value)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((8, 4, 4), np.uint8), r"shape \(8, 4, 4\)"),
        (np.zeros(8, np.uint8), r"shape \(8,\)"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64"),
        (np.zeros((4, 4, 3), bool), "dtype bool"),
        (np.full((4, 4, 3), 255.0), "from 255 to 255"),
        (np.full((4, 4, 3), -0.5, np.float32), "from -0.5 to -0.5"),
        (np.array([[0.5, np.nan]]), "NaN"),
        (np.array([[0.5, np.inf]]), "NaN or infinity"),
    ],
)
def test_wrong_arrays_are_named_and_the_right_ones_too(array, got):
    with pytest.raises(InvalidImageError, match=f"{got}.*Expected height x width x 3"):
        encode_array(array)


@pytest.mark.parametrize("array", [CHW, np.ascontiguousarray(CHW), CHW / 255, GRAY[None]])
def test_channels_may_come_first(array):
    expected = RGB if array.shape[0] == 3 else GRAY
    np.testing.assert_array_equal(decoded_ppm(encode_array(array)), expected)


def test_where_both_orders_fit_arrays_have_channels_last_and_tensors_first():
    both = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded_ppm(encode_array(both)), both)
    first = np.moveaxis(both, 0, 2)
    np.testing.assert_array_equal(decoded_ppm(encode_array(torch.from_numpy(both))), first)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_tensors_keep_every_sample(dtype):
    tensor = torch.from_numpy(CHW.copy())
    tensor = tensor if dtype is torch.uint8 else (tensor.double() / 255).to(dtype)
    np.testing.assert_array_equal(decoded_ppm(encode_array(tensor)), RGB)


def test_bfloat16_has_fewer_digits_than_8_bits_and_is_rounded():
    tensor = torch.from_numpy(CHW.copy()).float().div(255).bfloat16()
    expected = tensor.float().mul(255).round().byte().movedim(0, 2).numpy()
    np.testing.assert_array_equal(decoded_ppm(encode_array(tensor)), expected)


def test_tensors_with_gradients_are_taken():
    tensor = torch.from_numpy(CHW / 255).requires_grad_()
    np.testing.assert_array_equal(decoded_ppm(encode_array(tensor)), RGB)
    assert not on_the_cpu(tensor).requires_grad


@pytest.mark.parametrize("one_image", [RGB[None], torch.zeros(2, 3, 8, 8)])
def test_batches_are_for_score_many(one_image):
    assert is_batch(one_image)
    with pytest.raises(InvalidImageError, match=r"batch of shape .*score_many"):
        encode_array(one_image)


def test_nan_in_a_tensor_is_named():
    with pytest.raises(InvalidImageError, match="NaN"):
        encode_array(torch.full((3, 4, 4), float("nan")))
