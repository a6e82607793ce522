"""Arrays and tensors to PPM: a header of a few bytes before the raw samples, nothing compressed.

Tensors of torch and arrays of other libraries are known by what they can do, not by their type:
this package imports none of them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ma_agiqa_client.errors import InvalidImageError

__all__ = ["encode_array", "is_array", "is_batch", "on_the_cpu"]

_EXPECTED = (
    "Expected height x width x 3 (RGB), 3 x height x width or height x width (gray), "
    "uint8 in 0-255 or floating point in 0-1."
)


def is_array(thing: Any) -> bool:
    """Whether it is a NumPy array, a torch tensor, or turns into an array by itself."""
    return isinstance(thing, np.ndarray) or _is_tensor(thing) or hasattr(thing, "__array__")


def is_batch(thing: Any) -> bool:
    """Whether it is an array of several images."""
    return is_array(thing) and getattr(thing, "ndim", 0) == 4


def on_the_cpu(array: Any) -> Any:
    """A tensor without gradient in this machine's memory; other arrays as they are."""
    return array.detach().cpu() if _is_tensor(array) else array


def encode_array(array: Any) -> bytes:
    """Write one image as binary PPM, or PGM if it is gray.

    Args:
        array: (height, width, 3) or (3, height, width) RGB, (height, width) or with one channel
            gray; uint8 in 0-255, or floating point in 0-1, rounded to 8 bits. Where both orders
            fit, a torch tensor has its channels first and any other array last.

    Raises:
        InvalidImageError: another dtype, shape or range, or NaN.
    """
    pixels = _to_uint8(_channels_last(_to_numpy(array), first=_is_tensor(array)))
    height, width = pixels.shape[:2]
    magic = "P6" if pixels.ndim == 3 else "P5"
    return b"%s\n%d %d\n255\n" % (magic.encode(), width, height) + pixels.tobytes()


def _is_tensor(thing: Any) -> bool:
    return all(hasattr(thing, name) for name in ("detach", "cpu", "numpy", "dtype"))


def _to_numpy(array: Any) -> npt.NDArray[Any]:
    if not _is_tensor(array):
        return np.asarray(array)
    tensor = array.detach().cpu()
    if "bfloat16" in str(tensor.dtype):  # NumPy has no such type; float32 holds it exactly
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def _channels_last(array: npt.NDArray[Any], first: bool) -> npt.NDArray[Any]:
    """(height, width, 3), or (height, width) for gray."""
    if array.ndim == 4:
        raise InvalidImageError(
            f"Got a batch of shape {array.shape}, which holds {len(array)} images. "
            "Expected one; give batches to score_many or rank."
        )
    if array.ndim == 2 and array.size:
        return array
    axes = (0, 2) if first else (2, 0)
    for axis in axes:
        if array.ndim == 3 and array.shape[axis] in (1, 3) and array.size:
            image = np.moveaxis(array, axis, 2)
            return image[:, :, 0] if image.shape[2] == 1 else image
    raise InvalidImageError(f"Got an array of shape {array.shape}. {_EXPECTED}")


def _to_uint8(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidImageError(f"Got an array of dtype {array.dtype}. {_EXPECTED}")
    low, high = float(array.min()), float(array.max())
    if np.isnan(low) or np.isnan(high):
        raise InvalidImageError(f"Got an array that holds NaN. {_EXPECTED}")
    if low < 0 or high > 1:
        raise InvalidImageError(
            f"Got a {array.dtype} array with values from {low:g} to {high:g}. {_EXPECTED}"
        )
    pixels: npt.NDArray[np.uint8] = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    return pixels
