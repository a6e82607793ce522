"""The two views as differentiable functions of float pixels, for gradients through a score.

The kernels are those of `images.views`: bicubic with a = -0.75 and no antialiasing (OpenCV), and
bicubic with a = -0.5 and antialiasing (Pillow). Nothing is rounded to whole gray levels here, so a
pixel of the quality view differs by about 0.5 gray levels at most, and one of the semantic view,
which Pillow rounds twice, by about 1.2.
"""

import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.images.views import PADDING_RGB
from ma_agiqa.tensors import QUALITY_SIZE


def quality_pixels(pixels: Tensor) -> Tensor:
    """Resize to MANIQA's view; the aspect ratio is ignored.

    Args:
        pixels: RGB in 0-1, float (B, 3, height, width).

    Returns:
        RGB in 0-1, of the same dtype, (B, 3, 224, 224).
    """
    return _resize(pixels, QUALITY_SIZE, QUALITY_SIZE, antialias=False)


def semantic_pixels(pixels: Tensor, size: int) -> Tensor:
    """Pad to a square with CLIP's mean color, then resize to mPLUG-Owl2's view.

    Args:
        pixels: RGB in 0-1, float (B, 3, height, width).
        size: side of the view in pixels (paper: 448).

    Returns:
        RGB in 0-1, of the same dtype, (B, 3, size, size).
    """
    height, width = pixels.shape[2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    color = pixels.new_tensor(PADDING_RGB)[:, None, None] / 255
    square = F.pad(pixels - color, (left, side - width - left, top, side - height - top)) + color
    narrow = _resize(square, side, size, antialias=True)  # Pillow clips after each direction
    return _resize(narrow, size, size, antialias=True)


def _resize(pixels: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=antialias)
    return resized.clamp(0, 1)  # bicubic overshoots at edges
