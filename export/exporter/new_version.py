"""A checkpoint as a new version of the served scorer: written, checked, and put into service."""

import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import serialize_byte_tensor

from exporter import regression, rollout, versions
from exporter.config import WARMUP_IMAGE, DeploymentSettings, repository_configs
from exporter.formats import BACKENDS, Served
from exporter.model_control import ModelControl
from ma_agiqa.checkpoints import ModelCard, checkpoint_sha256, load_calibration, load_scorer
from ma_agiqa.checkpoints.card import utc_now
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity, check_binding
from ma_agiqa.errors import CheckpointError, ConfigError
from ma_agiqa.files import explain_full_disk, replace_folder, write_whole
from ma_agiqa.lmm.alignment import AlignmentMethod
from ma_agiqa.lmm.sources import embedder_config
from ma_agiqa.networks.arithmetic import choose_arithmetic
from ma_agiqa.networks.calibration import CalibratedScorer, Calibration, UncalibratedScorer
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
        calibration: what its scores are worth; None if it was not calibrated.
    """

    scorer: MAAGIQA
    card: ModelCard
    sha256: str
    calibration: Calibration | None = None

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Read a checkpoint folder that training wrote, or a `.pt` file of the authors' code.

        Raises:
            CheckpointError: it cannot be read or does not fit.
        """
        scorer, card = load_scorer(path)
        calibration, _ = load_calibration(path) or (None, None)
        return cls(scorer, card, checkpoint_sha256(path), calibration)


class NewVersion:
    """The next version of the scorer in a model repository.

    `publish` writes it together with the configuration of every model, for servers that are started
    afterwards. `activate` has running servers check and serve it. What fails, or is killed, before
    the version is complete and checked leaves the repository as it was.
    """

    def __init__(
        self,
        source: Source,
        repository: Path,
        embedder: EmbedderIdentity,
        gpu: bool,
        arithmetic: str = "auto",
        keep: int = KEEP,
        any_dtype: bool = False,
        backend: str = "libtorch",
        alignment: AlignmentMethod | None = None,
    ) -> None:
        """Check that scorer and embedder belong together; nothing is written yet.

        Args:
            source: the checkpoint.
            repository: folder of the models; made if it does not exist.
            embedder: the mPLUG-Owl2 that is served, with its dtype.
            gpu: whether the networks are served on the GPU.
            arithmetic: how the scorer computes, one of `arithmetic.ARITHMETICS`.
            keep: number of versions that stay, this one included.
            any_dtype: whether the embedder may have another dtype than that of the training.
            backend: what serves the scorer, a name in `formats.BACKENDS`.
            alignment: how the embedder compares images with their prompts.

        Raises:
            ConfigError: the scorer was trained on the embeddings of another embedder.
            CheckpointError: it takes embeddings of another width, or the embedder's settings
                cannot be read.
        """
        self.source, self.repository = source, Path(os.path.realpath(repository))
        self.embedder, self.any_dtype, self.gpu = embedder, any_dtype, gpu
        self.arithmetic, self.keep, self.backend = arithmetic, keep, backend
        self.alignment = alignment or AlignmentMethod()
        where = f"the one of {embedder.source} in {embedder.dtype}"
        check_binding(source.card, embedder, where, any_dtype)
        sizes, config = embedder_config(embedder.source), source.scorer.config
        if config.semantic_dim != sizes.hidden_size:
            raise CheckpointError(
                f"The checkpoint was trained on prompt embeddings of width {config.semantic_dim}; "
                f"{embedder.source} gives {sizes.hidden_size}. Give the --embedder it was trained "
                "with."
            )
        self._specs = tensor_specs(
            sizes.vision.image_size, sizes.hidden_size, config.image_size, source.scorer.grid
        )

    @classmethod
    def for_running(
        cls,
        source: Source,
        repository: Path,
        arithmetic: str = "auto",
        keep: int = KEEP,
        dtype: str | None = None,
    ) -> "NewVersion":
        """Make a version that runs as a repository's servers do: same embedder, dtype and device.

        Args:
            source, repository, arithmetic, keep: as for the constructor.
            dtype: the dtype that is served, where it is meant to differ from that of the training.

        Raises:
            CheckpointError: as for the constructor.
            ConfigError: the scorer was trained with another embedder than is served, or in another
                dtype, unless that is `dtype`; the repository is incomplete, or its adapters are
                not those of this version of the program.
        """
        served = versions.read_parameters(repository, versions.EMBEDDER)
        if not {"weights_sha256", "alignment"} <= {*served} or _outdated_files(repository):
            raise ConfigError(
                f"The models in {repository} were written by another version of this program. "
                "Write them again with `python export/to_triton.py`, and restart the servers."
            )
        if dtype not in (None, served["dtype"]):
            raise ConfigError(
                f"The servers of {repository} have mPLUG-Owl2 in {served['dtype']}, not {dtype}. "
                "To change it, use `python export/to_triton.py export`, and restart them."
            )
        embedder = EmbedderIdentity(
            served["embedder"],
            served["dtype"],
            served["weights_sha256"] or None,
            json.loads(served["prompts"]),
        )
        inputs = tuple(one.name for one in versions.read_config(repository, versions.SCORER).input)
        return cls(
            source,
            repository,
            embedder,
            versions.runs_on_gpu(repository),
            arithmetic,
            keep,
            any_dtype=bool(dtype),
            backend=next(name for name, one in BACKENDS.items() if one.inputs == inputs),
            alignment=AlignmentMethod.from_json(served["alignment"]),
        )

    def stage(self, folder: Path) -> Served:
        """Write the scorer as TorchScript, as ONNX and in what its backend serves, each checked.

        Args:
            folder: is empty, and becomes the version's folder in the repository.

        Returns:
            The scorer as it is served.

        Raises:
            CheckpointError: a format, or the arithmetic asked for, computes something else.
        """
        exact, card = self.source.scorer, self.source.card
        mos_range = card.mos_max - card.mos_min
        fast = choose_arithmetic(exact, self.arithmetic, self.gpu, mos_range)
        served, portable = self._calibrated(fast), self._calibrated(exact)
        for name in dict.fromkeys(("libtorch", "onnxruntime", self.backend)):
            # ONNX is for runtimes of any kind.
            BACKENDS[name].export(portable if name == "onnxruntime" else served, folder, self.gpu)
        return portable if self.backend == "onnxruntime" else served

    def _calibrated(self, scorer: MAAGIQA) -> Served:
        """Add interval and familiarity to a scorer, or NaN where only other versions have them."""
        if self.source.calibration:
            return CalibratedScorer(scorer, self.source.calibration)
        return UncalibratedScorer(scorer) if self._others_are_calibrated() else scorer

    def _others_are_calibrated(self) -> bool:
        """Whether the scorers in the repository give intervals."""
        if not versions.has_config(self.repository, versions.METER):
            return False
        meter = versions.read_config(self.repository, versions.METER)  # the same for all backends
        return any(output.name == "FAMILIARITY" for output in meter.output)

    def publish(self) -> int:
        """Write the version and the configuration of every model; servers started now serve it.

        Returns:
            The number of the version.

        Raises:
            CheckpointError: as in `stage`.
            ConfigError: another export or rollout is running on the repository, or it cannot be
                replaced.
            DataError: the disk is full.
        """
        repository = self.repository
        with rollout.locked(repository), explain_full_disk(repository):
            version = versions.next_version(repository)
            configs = self.configs(version)
            if self._fits(repository, configs) and _is_current(repository, configs):
                self._add(repository, version, configs)
            else:
                with _replaced(repository) as copy:
                    self._write_all(copy, version, configs)
            return version

    def _add(self, repository: Path, version: int, configs: dict[str, ModelConfig]) -> None:
        """Add the version to a repository that can be started after each of the steps.

        The other models stay as they are: Triton loads a model again whose files have moved.
        """
        with replace_folder(repository / versions.SCORER / str(version)) as folder:
            self.stage(folder)
        try:
            versions.write_version(repository, version, configs[versions.ENSEMBLE])
            versions.write_config(repository, configs[versions.METER])
            versions.set_active(repository, version)
        except BaseException:
            versions.forget(repository, version)
            raise
        self._remove_unfit(repository, versions.kept_versions(repository))
        rollout.prune(repository, (), self.keep)

    def _write_all(self, copy: Path, version: int, configs: dict[str, ModelConfig]) -> None:
        """Write every file that is not as it should be, in a copy that no server reads."""
        folder = copy / versions.SCORER / str(version)
        folder.mkdir(parents=True)
        self.stage(folder)
        fitting = versions.kept_versions(copy) if self._fits(copy, configs) else []
        for name, content in _outdated_files(copy).items():
            write_whole(copy / name, content)
        scorer, active = configs.pop(versions.SCORER), configs.pop(versions.ENSEMBLE)
        for config in (*configs.values(), versions.serve_versions(scorer, fitting)):
            versions.write_config(copy, config)
        self._remove_unfit(copy, [*fitting, version])
        versions.write_version(copy, version, active)
        versions.set_active(copy, version)
        rollout.prune(copy, (), self.keep)

    def _remove_unfit(self, repository: Path, fitting: Sequence[int]) -> None:
        """Remove versions that cannot be served, and those that something killed left behind."""
        there = {*versions.kept_versions(repository), *versions.stored_versions(repository)}
        for other in there - {*fitting}:
            logger.warning("Removed version %d, which cannot be served with this one", other)
            versions.forget(repository, other)

    def activate(self, servers: Sequence[ModelControl], accept_regression: bool = False) -> int:
        """Have running servers of the repository check the version and switch to it.

        Args:
            servers: all servers of the repository.
            accept_regression: whether it may be measurably worse than the active version.

        Returns:
            The number of the version.

        Raises:
            CheckpointError: as in `stage`, it is worse than the active version by more than
                `regression.LIMITS`, or a server does not score as expected. Nothing changed.
            ConfigError: the version needs another mPLUG-Owl2 or other tensors than are served, or
                the servers do not let their models be changed.
            DataError: the disk is full.
        """
        repository = self.repository
        with rollout.locked(repository), explain_full_disk(repository):
            version = versions.next_version(repository)
            configs = self.configs(version)
            if not self._fits(repository, configs):
                raise ConfigError(
                    "The checkpoint needs another mPLUG-Owl2, tensors of other sizes, or another "
                    f"scale of the MOS than are served from {repository}, or it is calibrated and "
                    "what is served is not. "
                    "Write it there with `python export/to_triton.py export` and restart the "
                    "servers, or give it a repository and a server of its own."
                )
            rollout.require_served(repository, servers)
            self._check_regression(repository, version, accept_regression)
            with replace_folder(repository / versions.SCORER / str(version)) as folder:
                scorer = self.stage(folder)
                golden = rollout.make_golden(repository, scorer, servers)
            rollout.activate(repository, version, configs[versions.ENSEMBLE], servers, golden)
            rollout.prune(repository, servers, self.keep)
            return version

    def _check_regression(self, repository: Path, version: int, accepted: bool) -> None:
        """Show the version's numbers next to the active one's; refuse it if they are too bad."""
        active = versions.active_version(repository)
        if active is None:
            return
        card = self._card_parameters(version)
        found = regression.changes(versions.card_of(repository, active), card)
        logger.info(
            "Version %d -> %d, as measured: %s", active, version, ", ".join(map(str, found)) or "-"
        )
        if not accepted and (beyond := [str(change) for change in found if change.beyond]):
            raise CheckpointError(
                f"The checkpoint is worse than version {active}, which is active: "
                f"{', '.join(beyond)}. To serve it anyway, give --accept-regression."
            )

    def configs(self, version: int) -> dict[str, ModelConfig]:
        """Configure every model, by name, for this version alone."""
        small = self.source.card.preset == "demo"
        settings = DeploymentSettings(
            self._embedder_parameters(),
            self.gpu,
            QUEUE_DELAY_US,
            # At the paper's size a batch of 8 takes two CPU cores about a minute. On a GPU the
            # first batch of each size is slow; the largest first, so that memory grows once.
            warmup_batches=(32, 16, 8, 4, 2, 1) if self.gpu else (1, 8) if small else (1,),
            scorer_backend=self.backend,
            # Most of the demo's time is the scorer's, on one core; most of the paper's is not.
            scorer_instances=2 if small and not self.gpu else 1,
        )
        card = self._card_parameters(version) | versions.bound_embedder(settings.embedder)
        wide = bool(self.source.calibration) or self._others_are_calibrated()
        return repository_configs(self._specs, card, settings, version, wide)

    def _card_parameters(self, version: int) -> dict[str, str]:
        """The card as parameters of the ensemble, where clients read it."""
        card = self.source.card
        parameters = card.parameters(self.source.sha256, self.source.scorer.config.gate_activation)
        return parameters | {
            "created": utc_now(),
            "version": str(version),
            "alignment": self.alignment.to_json(),
        }

    def _embedder_parameters(self) -> dict[str, str]:
        """What `mplug_owl2` loads and checks; weights that are not here are checked there."""
        trained = EmbedderIdentity.from_mapping(self.source.card.embedder)
        return {
            "embedder": self.embedder.source,
            "dtype": self.embedder.dtype or "",
            "weights_sha256": self.embedder.weights_sha256 or trained.weights_sha256 or "",
            "prompts": json.dumps({name: [*ids] for name, ids in self.embedder.prompts.items()}),
            "alignment": self.alignment.to_json(),
        }

    def _fits(self, repository: Path, configs: dict[str, ModelConfig]) -> bool:
        """Whether the version can be served next to those that are in the repository."""
        for name in (versions.EMBEDDER, versions.SCORER):
            if not versions.has_config(repository, name):
                return False
            served, new = versions.read_config(repository, name), configs[name]
            if list(served.input) != list(new.input) or list(served.output) != list(new.output):
                return False
        served_by = versions.read_parameters(repository, versions.EMBEDDER)
        ours = self._embedder_parameters()
        facts = [name for name in ours if name != "embedder" or not ours["weights_sha256"]]
        if any(served_by.get(name) != ours[name] for name in facts):
            return False
        if BACKENDS[self.backend].compiled and versions.runs_on_gpu(repository) != self.gpu:
            return False
        if not versions.has_config(repository, versions.ENSEMBLE):
            return True
        card = configs[versions.ENSEMBLE].parameters
        active = versions.read_config(repository, versions.ENSEMBLE).parameters
        return all(card[name] == active[name] for name in ("mos_min", "mos_max"))  # for `meter`


@contextmanager
def _replaced(repository: Path) -> Iterator[Path]:
    """Give a copy of a repository, of links to its files, which replaces it at the end.

    Raises:
        ConfigError: the repository's folder cannot be replaced.
    """
    if os.path.ismount(repository) or not os.access(repository.parent, os.W_OK):
        raise ConfigError(
            f"The repository {repository} cannot be replaced in one step: it is a mount point, or "
            f"nothing can be written next to it. Give a folder in it, {repository / 'models'}."
        )
    left = {*_left_behind(repository)}
    with replace_folder(repository) as copy:
        try:
            shutil.copytree(
                repository,
                copy,
                symlinks=True,
                ignore=lambda folder, names: [n for n in names if Path(folder, n) in left],
                copy_function=_link,
                dirs_exist_ok=True,
            )
        except shutil.Error as error:  # one for every file
            raise OSError(error.args[0][0][2]) from error
        yield copy


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links, or files of another user
        shutil.copy2(source, target, follow_symlinks=False)


def _is_current(repository: Path, configs: Mapping[str, ModelConfig]) -> bool:
    """Whether all but the versions is in a repository as an export would write it."""
    own = (versions.ENSEMBLE, versions.SCORER, versions.METER)  # whose changes are one file each
    return (
        versions.active_version(repository) is not None
        and versions.has_config(repository, versions.METER)
        and not _outdated_files(repository)
        and not any(_left_behind(repository))
        and all(
            versions.has_config(repository, name)
            and versions.read_config(repository, name) == config
            for name, config in configs.items()
            if name not in own
        )
    )


def _left_behind(repository: Path) -> Iterator[Path]:
    """What exports and rollouts that were killed left behind."""
    for pattern in (".*.part", ".*.old", ".export-*"):
        yield from repository.rglob(pattern)
    for folder in repository.glob(f"{versions.ENSEMBLE}*"):
        if not versions.has_config(repository, folder.name):
            yield folder


def _outdated_files(repository: Path) -> dict[str, bytes]:
    """The adapters and the image for the warmup that a repository lacks or has otherwise."""
    files = {
        str(file.relative_to(REPOSITORY)): file.read_bytes()
        for file in sorted(REPOSITORY.glob("*/1/model.py"))
    }
    files[f"preprocess/warmup/{WARMUP_IMAGE}"] = _warmup_image()
    there = {name: repository / name for name in files}
    return {
        name: content
        for name, content in files.items()
        if not there[name].is_file() or there[name].read_bytes() != content
    }


def _warmup_image() -> bytes:
    """A small gradient as the BYTES tensor that warms up `preprocess`."""
    y, x = np.mgrid[0:96, 0:128]
    file = io.BytesIO()
    Image.fromarray(np.stack([x, y, x + y], axis=-1).astype(np.uint8)).save(file, "PNG")
    return serialize_byte_tensor(np.array([file.getvalue()], dtype=np.object_)).item()
