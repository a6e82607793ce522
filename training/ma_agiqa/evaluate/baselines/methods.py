"""The methods of Table 1 that run here, and how the paper uses them (§4.2)."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One row of Table 1.

    Attributes:
        key: name on the command line.
        name: name in `paper_results.COMPARISON`.
        trained: whether the paper trains it on the data set; the others it uses as they are.
        lower_is_better: whether the method's own value falls as quality rises. Its sign is then
            turned, so that a higher score is better everywhere; all correlations follow from that.
        cpu_bound: whether images are best shared out to processes, one core each.
    """

    key: str
    name: str
    trained: bool = False
    lower_is_better: bool = False
    cpu_bound: bool = False


METHODS: Mapping[str, Method] = {
    method.key: method
    for method in (
        Method("brisque", "BRISQUE", lower_is_better=True, cpu_bound=True),
        Method("niqe", "NIQE", lower_is_better=True, cpu_bound=True),
        Method("ilniqe", "ILNIQE", lower_is_better=True, cpu_bound=True),
        Method("clipiqa", "CLIPIQA"),
        Method("clipiqa+", "CLIPIQA+"),
        Method("qalign", "Q-Align"),
        Method("hyperiqa", "HyperIQA", trained=True),
        Method("maniqa", "MANIQA", trained=True),
        Method("dbcnn", "DBCNN", trained=True),
        Method("musiq", "MUSIQ", trained=True),
    )
}
"""The methods by key, in the order of Table 1."""

TRAINABLE = tuple(key for key, method in METHODS.items() if method.trained)
