"""A checkpoint as a new version of the served scorer: written, checked, and put into service."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import serialize_byte_tensor

from exporter import rollout, versions
from exporter.cards import card_parameters
from exporter.config import WARMUP_IMAGE, DeploymentSettings, repository_configs
from exporter.formats import choose_arithmetic, export_onnx, export_torchscript
from exporter.model_control import ModelControl
from ma_agiqa.checkpoints import ModelCard, checkpoint_sha256, load_scorer
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.files import explain_full_disk, write_whole
from ma_agiqa.lmm.sources import embedder_config
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.tensors import tensor_specs

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
"""The shipped repository, whose adapters (`<model>/1/model.py`) every repository gets."""

KEEP = 2
"""Versions that stay: the active one, and one to go back to."""

QUEUE_DELAY_US = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A checkpoint in memory.

    Attributes:
        scorer: the network, in evaluation mode on the CPU.
        card: its model card.
        sha256: hash of its weights, which identifies the model.
    """

    scorer: MAAGIQA
    card: ModelCard
    sha256: str

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Read a checkpoint folder that training wrote, or a `.pt` file of the authors' code.

        Raises:
            CheckpointError: it cannot be read or does not fit.
        """
        scorer, card = load_scorer(path)
        return cls(scorer, card, checkpoint_sha256(path))


class NewVersion:
    """The next version of the scorer in a model repository.

    `publish` writes it together with the configuration of every model, for servers that are started
    afterwards. `activate` has running servers check and serve it. Both write the networks into a
    hidden folder first (`stage`) and move them into place once they have passed their checks: a
    failure before that leaves the repository as it was.
    """

    def __init__(
        self,
        source: Source,
        repository: Path,
        embedder: str,
        dtype: str,
        gpu: bool,
        arithmetic: str = "auto",
        keep: int = KEEP,
    ) -> None:
        """Check that scorer and embedder fit; nothing is written yet.

        Args:
            source: the checkpoint.
            repository: folder of the models; made if it does not exist.
            embedder: source of mPLUG-Owl2, as `ma_agiqa.lmm.sources.build_embedder` takes it.
            dtype: type that mPLUG-Owl2's weights are kept in, of `ma_agiqa.lmm.sources.DTYPES`.
            gpu: whether the networks are served on the GPU.
            arithmetic: how the scorer computes, one of `formats.ARITHMETICS`.
            keep: number of versions that stay, this one included.

        Raises:
            CheckpointError: the scorer takes embeddings of another width, or the embedder's
                settings cannot be read.
        """
        self.source, self.repository = source, repository
        self.embedder, self.dtype, self.gpu = embedder, dtype, gpu
        self.arithmetic, self.keep = arithmetic, keep
        sizes, config = embedder_config(embedder), source.scorer.config
        if config.semantic_dim != sizes.hidden_size:
            raise CheckpointError(
                f"The checkpoint was trained on prompt embeddings of width {config.semantic_dim}; "
                f"{embedder} gives {sizes.hidden_size}. Give the --embedder it was trained with."
            )
        self._specs = tensor_specs(
            sizes.vision.image_size, sizes.hidden_size, config.image_size, source.scorer.grid
        )

    @classmethod
    def for_running(
        cls, source: Source, repository: Path, arithmetic: str = "auto", keep: int = KEEP
    ) -> "NewVersion":
        """Make a version that runs as a repository's servers do: same embedder, dtype and device.

        Raises:
            CheckpointError: as for the constructor.
            ConfigError: the repository is incomplete, or its adapters are not those of this
                version of the program.
        """
        served = versions.read_parameters(repository, versions.EMBEDDER)
        if "embedder" not in served or _outdated_adapters(repository):
            raise ConfigError(
                f"The models in {repository} were written by another version of this program. "
                "Write them again with `python export/to_triton.py`, and restart the servers."
            )
        gpu = versions.runs_on_gpu(repository)
        return cls(source, repository, served["embedder"], served["dtype"], gpu, arithmetic, keep)

    def stage(self, folder: Path) -> MAAGIQA:
        """Write the scorer as TorchScript and as ONNX, each checked against the eager model.

        Args:
            folder: is made, and becomes the version's folder in the repository.

        Returns:
            The scorer as it is served.

        Raises:
            CheckpointError: a format, or the arithmetic asked for, computes something else.
        """
        folder.mkdir()
        scorer, card = self.source.scorer, self.source.card
        mos_range = card.mos_max - card.mos_min
        served = choose_arithmetic(scorer, self.arithmetic, self.gpu, mos_range)
        export_torchscript(served, folder / "model.pt")
        export_onnx(scorer, folder / "model.onnx")
        return served

    def publish(self) -> int:
        """Write the version and the configuration of every model; servers started now serve it.

        Returns:
            The number of the version.

        Raises:
            CheckpointError: as in `stage`.
            ConfigError: another export or rollout is running on the repository.
            DataError: the disk is full.
        """
        repository = self.repository
        with _locked_for_writing(repository) as staging:
            self.stage(staging / "version")
            version = versions.next_version(repository)
            configs = self.configs(version)
            fitting = versions.kept_versions(repository) if self._fits(configs) else []
            os.rename(staging / "version", repository / versions.SCORER / str(version))
            _write_warmup_image(repository, staging)
            for name, text in _outdated_adapters(repository).items():
                write_whole(repository / name, text)
            _drop_unfit(repository, fitting)
            # The one that clients ask for is written last.
            scorer, active = configs.pop(versions.SCORER), configs.pop(versions.ENSEMBLE)
            for config in configs.values():
                versions.write_config(repository, config)
            versions.write_config(repository, versions.serve_versions(scorer, {*fitting, version}))
            versions.write_version(repository, version, active)
            versions.set_active(repository, version)
            rollout.prune(repository, (), self.keep)
            return version

    def activate(self, servers: Sequence[ModelControl]) -> int:
        """Have running servers of the repository check the version and switch to it.

        Args:
            servers: all servers of the repository.

        Returns:
            The number of the version.

        Raises:
            CheckpointError: as in `stage`, or a server does not score as expected. Nothing changed.
            ConfigError: the version needs another mPLUG-Owl2 or other tensors than are served, or
                the servers do not let their models be changed.
            DataError: the disk is full.
        """
        repository = self.repository
        with _locked_for_writing(repository) as staging:
            version = versions.next_version(repository)
            configs = self.configs(version)
            if not self._fits(configs):
                raise ConfigError(
                    "The checkpoint needs another mPLUG-Owl2, or tensors of other sizes, than are "
                    f"served from {repository}. Write it there with `python export/to_triton.py "
                    "export` and restart the servers, or give it a repository and a server of its "
                    "own."
                )
            scorer = self.stage(staging / "version")
            golden = rollout.make_golden(repository, scorer, servers[0])
            os.rename(staging / "version", repository / versions.SCORER / str(version))
            rollout.activate(repository, version, configs[versions.ENSEMBLE], servers, golden)
            rollout.prune(repository, servers, self.keep)
            return version

    def configs(self, version: int) -> dict[str, ModelConfig]:
        """Configure every model, by name, for this version alone."""
        small = self.source.card.preset == "demo"
        settings = DeploymentSettings(
            self.embedder,
            self.dtype,
            self.gpu,
            QUEUE_DELAY_US,
            # At the paper's size a batch of 8 takes two CPU cores about a minute.
            warmup_batches=(1, 8) if small or self.gpu else (1,),
        )
        gate = self.source.scorer.config.gate_activation
        card = card_parameters(self.source.card, gate, self.source.sha256, version)
        return repository_configs(self._specs, card, settings, version)

    def _fits(self, configs: dict[str, ModelConfig]) -> bool:
        """Whether the version can be served next to those that are in the repository."""
        for name in (versions.EMBEDDER, versions.SCORER):
            if not versions.has_config(self.repository, name):
                return False
            served, new = versions.read_config(self.repository, name), configs[name]
            if list(served.input) != list(new.input) or list(served.output) != list(new.output):
                return False
            if name == versions.EMBEDDER and served.parameters != new.parameters:
                return False
        return True


@contextmanager
def _locked_for_writing(repository: Path) -> Iterator[Path]:
    """Lock the repository, explain a full disk, and make a folder that Triton ignores."""
    with rollout.locked(repository), explain_full_disk(repository):
        scorer = repository / versions.SCORER
        scorer.mkdir(parents=True, exist_ok=True)
        for left in scorer.glob(".export-*"):  # by an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=scorer))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _outdated_adapters(repository: Path) -> dict[str, str]:
    """The models' Python files that a repository lacks or has otherwise, by their place in it."""
    outdated = {}
    for file in sorted(REPOSITORY.glob("*/1/model.py")):
        name, text = str(file.relative_to(REPOSITORY)), file.read_text(encoding="utf-8")
        there = repository / name
        if not there.is_file() or there.read_text(encoding="utf-8", errors="replace") != text:
            outdated[name] = text
    return outdated


def _drop_unfit(repository: Path, fitting: Sequence[int]) -> None:
    """Remove the ensembles of versions that do not fit what is served from now on."""
    for version in set(versions.kept_versions(repository)) - set(fitting):
        shutil.rmtree(repository / versions.ensemble_name(version))
        logger.warning(
            "Version %d does not fit the new mPLUG-Owl2 or tensors, and is removed", version
        )


def _write_warmup_image(repository: Path, staging: Path) -> None:
    """Write a small gradient as the BYTES tensor that warms up `preprocess`, unless it is there."""
    y, x = np.mgrid[0:96, 0:128]
    image = Image.fromarray(np.stack([x, y, x + y], axis=-1).astype(np.uint8))
    with tempfile.TemporaryFile() as file:
        image.save(file, "PNG")
        file.seek(0)
        tensor = serialize_byte_tensor(np.array([file.read()], dtype=np.object_)).item()
    target = repository / "preprocess" / "warmup" / WARMUP_IMAGE
    if not target.is_file() or target.read_bytes() != tensor:
        (staging / WARMUP_IMAGE).write_bytes(tensor)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / WARMUP_IMAGE, target)
