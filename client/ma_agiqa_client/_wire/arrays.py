"""Arrays and tensors as PPM files: a header of a few bytes and the raw samples, uncompressed.

Torch tensors and arrays of other libraries are recognized by their methods, not by their type: this
package imports none of those libraries.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ma_agiqa_client.errors import InvalidImageError

_EXPECTED = (
    "Expected height x width x 3 (RGB), 3 x height x width or height x width (gray), "
    "uint8 in 0-255 or floating point in 0-1."
)

_HALF_LEVEL = 0.5 / 255


def is_array(thing: Any) -> bool:
    """Return whether it is a NumPy array, a torch tensor, or converts itself to an array."""
    return isinstance(thing, np.ndarray) or _is_tensor(thing) or hasattr(thing, "__array__")


def is_batch(thing: Any) -> bool:
    """Return whether it is an array of several images."""
    return is_array(thing) and getattr(thing, "ndim", 0) == 4


def on_the_cpu(array: Any) -> Any:
    """Return a tensor detached and in this machine's memory; other arrays are not changed."""
    return array.detach().cpu() if _is_tensor(array) else array


def wrong_array(message: str) -> InvalidImageError:
    """Make the error of an array that has another dtype, shape or range than images have."""
    error = InvalidImageError(message)
    error.wrong_array = True
    return error


def encode_array(array: Any) -> bytes:
    """Write one image as binary PPM, or PGM if it is gray.

    Args:
        array: RGB as (height, width, 3) or (3, height, width); gray as (height, width) or with one
            channel. uint8 in 0-255, or floating point in 0-1, which is rounded to 8 bits; values
            that are outside by less than half a gray level become 0 or 255. If both orders fit,
            channels are first in a torch tensor and last in any other array.

    Raises:
        InvalidImageError: the dtype, shape or range is another one, or there is NaN or infinity.
    """
    pixels = _to_uint8(_channels_last(_to_numpy(array), first=_is_tensor(array)))
    height, width = pixels.shape[:2]
    magic = "P6" if pixels.ndim == 3 else "P5"
    return b"%s\n%d %d\n255\n" % (magic.encode(), width, height) + pixels.tobytes()


def _is_tensor(thing: Any) -> bool:
    return all(hasattr(thing, name) for name in ("detach", "cpu", "numpy", "dtype"))


def _to_numpy(array: Any) -> npt.NDArray[Any]:
    try:
        if not _is_tensor(array):
            return np.asarray(array)
        tensor = array.detach().cpu()
        if "bfloat16" in str(tensor.dtype):  # NumPy has no such type; float32 holds it exactly
            tensor = tensor.float()
        return np.asarray(tensor.numpy())
    except (TypeError, ValueError, RuntimeError) as error:  # such as sparse or quantized tensors
        raise wrong_array(f"Got an array that NumPy cannot hold ({error}). {_EXPECTED}") from error


def _channels_last(array: npt.NDArray[Any], first: bool) -> npt.NDArray[Any]:
    """Return the image as (height, width, 3), or (height, width) for gray."""
    if array.ndim == 4:
        raise wrong_array(
            f"Got a batch of shape {array.shape}, which has {len(array)} images. "
            "Expected one image; pass batches to score_many or rank."
        )
    if array.ndim == 2 and array.size:
        return array
    axes = (0, 2) if first else (2, 0)
    for axis in axes:
        if array.ndim == 3 and array.shape[axis] in (1, 3) and array.size:
            image = np.moveaxis(array, axis, 2)
            return image[:, :, 0] if image.shape[2] == 1 else image
    raise wrong_array(f"Got an array of shape {array.shape}. {_EXPECTED}")


def _to_uint8(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise wrong_array(f"Got an array of dtype {array.dtype}. {_EXPECTED}")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():  # what a generator that has diverged makes
        raise InvalidImageError(f"Got an array that contains NaN or infinity. {_EXPECTED}")
    if low <= -_HALF_LEVEL or high >= 1 + _HALF_LEVEL:
        raise wrong_array(
            f"Got a {array.dtype} array with values from {low:.9g} to {high:.9g}. {_EXPECTED}"
        )
    levels: npt.NDArray[np.float32] = np.rint(array.astype(np.float32) * 255)
    return levels.clip(0, 255).astype(np.uint8)
