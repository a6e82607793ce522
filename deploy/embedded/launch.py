"""What has to be right before tritonserver starts: repository, ports and command line."""

import compileall
import contextlib
import ctypes
import errno
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from embedded.errors import PortBusyError, RepositoryError, ServeError

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"

ANSWERING_MODEL = "mplug_owl2_answer"

SERVICE_NAME = "ma-agiqa"
"""What the server is called in traces."""


class Ports(NamedTuple):
    """TCP ports of the three services."""

    grpc: int
    http: int
    metrics: int


@dataclass(frozen=True)
class Tracing:
    """Send OpenTelemetry traces of requests, with a span for each step.

    A request that carries the header `traceparent` joins the caller's trace.

    Attributes:
        url: where a collector takes OTLP over HTTP, such as http://localhost:4318/v1/traces.
        one_in: trace one of this many requests.
    """

    url: str
    one_in: int = 1

    def options(self) -> list[str]:
        """Options of tritonserver."""
        return [
            "--trace-config=mode=opentelemetry",
            "--trace-config=level=TIMESTAMPS",
            f"--trace-config=rate={self.one_in}",
            f"--trace-config=opentelemetry,url={self.url}",
            f"--trace-config=opentelemetry,resource=service.name={SERVICE_NAME}",
        ]


@dataclass(frozen=True)
class Launch:
    """How tritonserver is started. The defaults are those of the embedded server; a container
    needs others.

    Attributes:
        tritonserver: program to run, with backends of its own; None runs the embedded one.
        address: address that gRPC, HTTP and metrics listen on. The embedded server is for
            127.0.0.1 only: it lacks later security fixes.
        cores: number of CPU cores to use; None: those that this process may use.
        admin_key: clients that send it may load and unload models; None draws one, which is kept
            next to the log file.
        shm_prefix: names of the regions in /dev/shm begin with it, and regions that a killed server
            left under it are removed at the start; None draws one.
        probe_key_file: where to write the key that opens HTTP for `serve.py --check`.
        exit_timeout_s: how long tritonserver lets running inferences finish after SIGTERM.
        options: further options of tritonserver, which count where they repeat an option.
    """

    tritonserver: Path | None = None
    address: str = LOOPBACK
    cores: int | None = None
    admin_key: str | None = None
    shm_prefix: str | None = None
    probe_key_file: Path | None = None
    exit_timeout_s: int = 10
    options: Sequence[str] = ()

    @property
    def local_address(self) -> str:
        """The address by which this machine reaches the server."""
        return LOOPBACK if self.address == EVERY_ADDRESS else self.address

    @property
    def has_metrics(self) -> bool:
        """Whether tritonserver serves metrics."""
        return not {"--allow-metrics=false", "--allow-metrics=0"} & set(self.options)


def check_repository(
    repository: Path, complete: bool, explain: bool = False, embedded: bool = True
) -> None:
    """Check that the repository can be served.

    Args:
        repository: folder of the models.
        complete: it has to hold an exported model: the ensemble and a version of the scorer.
        explain: it has to hold the model that answers questions.
        embedded: whether the tritonserver in the wheel serves it.

    Raises:
        RepositoryError: something is missing, or a model asks for a GPU or for a backend that is
            not there.
    """
    export = "run `python export/to_triton.py` to write one"
    if not repository.is_dir():
        raise RepositoryError(f"There is no model repository at {repository}: {export}.")
    if explain and not (repository / ANSWERING_MODEL / "config.pbtxt").is_file():
        raise RepositoryError(
            f"The model repository {repository} has no {ANSWERING_MODEL}/config.pbtxt, which "
            f"--explain asks for: {export}."
        )
    configs = {
        model: (repository / model / "config.pbtxt").read_text()
        for model in models_to_load(repository, explain)
    }
    for model, config in configs.items() if embedded else ():
        if found := re.search(r'"(onnxruntime|torch_aoti)"', config):
            raise RepositoryError(
                f"{model} in {repository} was exported for {found[1]}, which the embedded server "
                "does not have: serve the repository with Triton's container, or export without "
                "--scorer-backend."
            )
    wants_gpu = [name for name, text in configs.items() if re.search(r"kind:\s*KIND_GPU", text)]
    if wants_gpu and not _has_gpu():
        raise RepositoryError(
            f"The model repository {repository} was exported for a GPU ({', '.join(wants_gpu)}), "
            "and CUDA finds none on this machine: start it where `nvidia-smi` lists one, or "
            "export with --device cpu."
        )
    if not complete:
        return
    if not (repository / "ma_agiqa" / "config.pbtxt").is_file():
        raise RepositoryError(
            f"The model repository {repository} has no ma_agiqa/config.pbtxt: {export}."
        )
    versions = [folder for folder in (repository / "maniqa_moe").glob("*") if folder.name.isdigit()]
    if not any((version / "model.pt").is_file() for version in versions):
        raise RepositoryError(
            f"The model repository {repository} has no version of maniqa_moe with a model.pt: "
            f"{export}."
        )


def _has_gpu() -> bool:
    """Whether CUDA's driver finds a device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return cuda.cuInit(0) == cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def find_ports(wanted: Ports | None, address: str = LOOPBACK) -> Ports:
    """Check that the wanted ports are free, or find three free ones.

    Raises:
        PortBusyError: a wanted port is taken.
        ServeError: a wanted port is named twice, or may not be opened.
    """
    if wanted and len(set(wanted)) < len(wanted):
        raise ServeError(
            "The ports for gRPC, HTTP and metrics have to differ, "
            f"received {', '.join(map(str, wanted))}."
        )
    with contextlib.ExitStack() as stack:
        taken = []
        for service, port in (wanted or Ports(0, 0, 0))._asdict().items():
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(listener, address, service, port)
            taken.append(listener.getsockname()[1])
    return Ports(*taken)


def _bind(listener: socket.socket, address: str, service: str, port: int) -> None:
    try:
        listener.bind((address, port))
        listener.listen()
    except OSError as error:
        option = f"--{service}-port"
        if error.errno == errno.EADDRINUSE:
            raise PortBusyError(
                f"Port {port} on {address} is already in use: choose another with {option}, "
                "or take free ones with --free-ports."
            ) from error
        raise ServeError(
            f"Port {port} on {address} cannot be opened ({error.strerror}): "
            f"choose another with {option}."
        ) from error


def models_to_load(repository: Path, explain: bool) -> list[str]:
    """Names of the repository's models; the one that answers questions only to `explain`.

    Folders without a configuration are none: Triton could not load them.
    """
    names = (file.parent.name for file in repository.glob("[!.]*/config.pbtxt"))
    return sorted(name for name in names if explain or name != ANSWERING_MODEL)


def compile_models(repository: Path, models: Sequence[str]) -> None:
    """Write the bytecode of the models' Python files, where that is allowed, before the server.

    A stub would write it while it loads a model. The model's folder would then be newer than the
    model, and Triton would load it again at the next change of an ensemble that it is a step of:
    16.4 GB for the paper's LMM. Stubs ignore PYTHONDONTWRITEBYTECODE.
    """
    for model in models:
        compileall.compile_dir(repository / model, maxlevels=1, quiet=2)


def metrics_address(ports: Ports, address: str = LOOPBACK) -> dict[str, str]:
    """Environment by which the first step finds how many requests wait for the others."""
    return {"MA_AGIQA_METRICS_URL": f"http://{address}:{ports.metrics}/metrics"}


def server_options(
    repository: Path,
    models: Sequence[str],
    ports: Ports,
    shm_prefix: str,
    launch: Launch,
    tracing: Tracing | None,
) -> list[str]:
    """Options of tritonserver, without those that close its services."""
    return [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--disable-auto-complete-config",  # saves one start of Python and torch per model
        f"--grpc-address={launch.address}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={launch.address}",
        f"--http-port={ports.http}",
        f"--metrics-address={launch.address}",
        f"--metrics-port={ports.metrics}",
        "--metrics-config=summary_latencies=true",  # p50 to p99 of this server
        # Buckets, which can be added up over servers; 2.51 has none, and ignores it.
        "--metrics-config=histogram_latencies=true",
        f"--exit-timeout-secs={launch.exit_timeout_s}",
        "--log-format=ISO8601",
        *(tracing.options() if tracing else ()),
    ]
