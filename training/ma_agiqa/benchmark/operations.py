"""Operations and matrix products of a pass, counted by PyTorch while the pass runs."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ma_agiqa.benchmark.machine import GemmShape

_SMALLEST_SHARE = 0.01  # of the operations, for a product to be listed


def count_operations(work: Callable[[], object]) -> tuple[int, list[GemmShape]]:
    """Run `work` once and count.

    Returns:
        Operations of all matrix products, attention and convolutions, two for each multiplication
        with its addition; and the matrix products of linear layers that hold at least 1 % of them.
    """
    products: Counter[tuple[int, int, int]] = Counter()

    def mm(left: torch.Size, right: torch.Size, *_: object, **__: object) -> int:
        products[left[0], left[1], right[1]] += 1
        return 2 * left[0] * left[1] * right[1]

    def addmm(_: torch.Size, *sizes: torch.Size, **__: object) -> int:
        return mm(*sizes)

    aten = torch.ops.aten
    counter = FlopCounterMode(display=False, custom_mapping={aten.mm: mm, aten.addmm: addmm})
    with counter, sdpa_kernel(SDPBackend.MATH):  # not every fused kernel of attention is counted
        work()
    total = counter.get_total_flops()
    shapes = [GemmShape(*sizes, times) for sizes, times in products.items()]
    return total, [shape for shape in shapes if shape.flop >= _SMALLEST_SHARE * total]
