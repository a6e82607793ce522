"""A method of Table 1, ready to score: finds its code and its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ma_agiqa.errors import ConfigError, DownloadError
from ma_agiqa.evaluate.baselines.checkouts import STAIRIQA_DATABASES, load_baid, load_stairiqa
from ma_agiqa.evaluate.baselines.handcrafted import BrisquePackage
from ma_agiqa.evaluate.baselines.methods import METHODS
from ma_agiqa.evaluate.baselines.networks import Network
from ma_agiqa.evaluate.baselines.pyiqa_metrics import is_installed, load_first_weights, load_metric
from ma_agiqa.images.views import RGB

__all__ = ["NetworkScorer", "Options", "Scorer", "load", "load_network"]


class Scorer(Protocol):
    """Values images.

    Attributes:
        origin: of the code and the weights, for the table.
    """

    origin: str

    def score(self, rgb: RGB) -> float:
        """The method's own value of an image, uint8 (H, W, 3)."""
        ...


@dataclass(frozen=True)
class Options:
    """Where methods find what they need.

    Attributes:
        device: of networks, such as "cpu" or "cuda".
        download: fetch missing weights.
        progress: show bars on stderr.
        stairiqa, stairiqa_weights: checkout and weights of StairIQA.
        stairiqa_database: whose output of its six is taken.
        baid, baid_weights: checkout and weights of BAID.
    """

    device: str = "cpu"
    download: bool = False
    progress: bool = False
    stairiqa: Path | None = None
    stairiqa_weights: Path | None = None
    stairiqa_database: str = "Koniq10k"
    baid: Path | None = None
    baid_weights: Path | None = None

    def __post_init__(self) -> None:
        if self.stairiqa_database not in STAIRIQA_DATABASES:
            raise ConfigError(
                f"stairiqa_database is {self.stairiqa_database!r}; choose one of "
                f"{STAIRIQA_DATABASES}."
            )


class NetworkScorer:
    """A network of others as it is.

    Args:
        network: on its device.
        origin: of its weights.
    """

    def __init__(self, network: Network, origin: str) -> None:
        self._network, self.origin = network.eval(), origin

    def score(self, rgb: RGB) -> float:
        """Score an image, uint8 (H, W, 3)."""
        return self._network.score(rgb)


def load(key: str, options: Options) -> Scorer:
    """A method with published weights, or with those that the user brings.

    Raises:
        ConfigError: its code is not on the machine.
        DownloadError: its weights are not.
        CheckpointError: they do not fit.
    """
    if key in ("stairiqa", "baid"):
        return NetworkScorer(*_from_checkout(key, options))
    if key == "qalign":
        from ma_agiqa.evaluate.baselines.q_align import QAlignScorer

        return QAlignScorer(options.device, options.download)
    if key == "brisque":
        return _load_brisque(options)
    return load_metric(key, options.device, options.download, options.progress)


def load_network(key: str, options: Options) -> tuple[Network, str]:
    """A trained method's network as its training begins, and the origin of these first weights.

    Raises:
        ConfigError, DownloadError, CheckpointError: as `load`.
    """
    if key in ("stairiqa", "baid"):
        return _from_checkout(key, options)
    return load_first_weights(key, options.device, options.download, options.progress)


def _load_brisque(options: Options) -> Scorer:
    """pyiqa with the authors' support vectors, or else the package with its own."""
    if is_installed():
        try:
            return load_metric("brisque", "cpu", options.download, options.progress)
        except DownloadError as missing:
            try:
                return BrisquePackage()
            except ConfigError:
                raise missing from None
    return BrisquePackage()


def _from_checkout(key: str, options: Options) -> tuple[Network, str]:
    checkout, weights = getattr(options, key), getattr(options, f"{key}_weights")
    if checkout is None or weights is None:
        raise ConfigError(
            f"{METHODS[key].name} runs on a checkout of its authors' code: give --{key} FOLDER "
            f"and --{key}-weights FILE."
        )
    if key == "stairiqa":
        network, origin = load_stairiqa(checkout, weights, options.stairiqa_database)
    else:
        network, origin = load_baid(checkout, weights)
    return network.to(options.device), origin
