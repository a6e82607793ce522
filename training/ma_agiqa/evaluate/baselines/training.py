"""Training of others' networks by the recipe of the config (paper §4.2)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ma_agiqa.data import RatedImage, Split
from ma_agiqa.evaluate.baselines.networks import Network
from ma_agiqa.evaluate.baselines.scoring import read_rgb
from ma_agiqa.files import explain_full_disk
from ma_agiqa.train.config import Optimization
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.trainer import PaperTrainer

_MOST_WORKERS = 4


class _Views(Dataset[dict[str, Tensor]]):
    """Views of images with their MOS: drawn at random by (epoch, index), whole by the index."""

    def __init__(self, images: Sequence[RatedImage], network: Network, seed: int) -> None:
        self._images, self._network, self._seed = images, network, seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, draw: int | tuple[int, int]) -> dict[str, Tensor]:
        index = draw[1] if isinstance(draw, tuple) else draw
        image, random = self._images[index], None
        if isinstance(draw, tuple):
            random = np.random.default_rng([self._seed, *draw])
        labels = torch.tensor(image.mos, dtype=torch.float32)
        return {"pixels": self._network.view(read_rgb(image), random), "labels": labels}


class _NetworkWithLoss(nn.Module):
    """A network in the shape that `PaperTrainer` asks for."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Score views (B, 3, H, W) and compare with the MOS (B,)."""
        score = self.network(pixels).float()
        return {"loss": F.mse_loss(score, labels), "score": score}


def train_network(
    network: Network,
    split: Split,
    optimization: Optimization,
    seed: int,
    folder: RunFolder,
    progress: bool = False,
) -> None:
    """Train a network in place; it ends with the weights of the best epoch.

    An interrupted run continues after its last complete epoch when it is called again with the
    same folder.

    Args:
        network: is trained on the GPU if there is one, and returned to its device.
        split: its train and validation parts are used.
        optimization: the recipe.
        seed: seed of the order of the images, the crops and dropout.
        folder: folder of the run, started.
        progress: show bars on stderr.

    Raises:
        ConfigError: a batch size that does not fit.
        DataError: an image cannot be read, or the disk is full.
    """
    device = next(network.parameters()).device
    trainer = PaperTrainer(
        _NetworkWithLoss(network),
        folder,
        optimization,
        seed,
        _Views(split.train, network, seed),
        _Views(split.validation, network, seed),
        progress,
        per_device_eval_batch_size=1,  # images of one part differ in size
        dataloader_num_workers=_MOST_WORKERS if torch.cuda.is_available() else 0,
    )
    with explain_full_disk(folder.path):
        trainer.run(folder.newest_whole())
    network.to(device).eval()
