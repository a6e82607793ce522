"""A real tritonserver on the local machine, run for the program that calls it.

    with EmbeddedTriton(Path("model_repository"), free_ports=True) as server:
        client = tritonclient.grpc.InferenceServerClient(server.grpc_url)

Without a `Launch` it runs the program inside the wheel `nvidia-pytriton` (2.51), which lacks later
security fixes, on 127.0.0.1 only. Production runs a current tritonserver in a container by the same
code, see `serve.py`.
"""

import contextlib
import logging
import time
from pathlib import Path

from embedded.drain import drain
from embedded.errors import ServeError, ServerFailedError
from embedded.guard import previous_log
from embedded.health import NotScoringError, ServedModel, self_test
from embedded.http import TritonHttp
from embedded.launch import (
    Launch,
    Ports,
    Tracing,
    check_repository,
    compile_models,
    find_ports,
    models_to_load,
)
from embedded.log import explain_failure, lost_the_race_for_a_port, where_is
from embedded.process import TritonServer
from embedded.security import Security

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
STDERR = Path("-")
"""As `log_file`: write to stderr of this process."""

PORT_ATTEMPTS = 3
POLL_S = 0.05
ANSWER_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class EmbeddedTriton:
    """A tritonserver that serves one model repository while the context is open.

    Every process, shared memory region and temporary file of the server is gone after `stop`, and
    soon after the end of this process if it is killed before.

    Attributes:
        ports: the ports listened on; chosen in `start` if `free_ports`.
        log_file: everything that tritonserver and its models write, from this start only; None if
            they write to stderr of this process.
        http: asks the server for what is closed to others.
        model: what the ensemble's configuration says about the model; None without self-test.
    """

    http: TritonHttp
    ports: Ports
    log_file: Path | None
    model: ServedModel | None

    def __init__(
        self,
        repository: Path | str,
        *,
        grpc_port: int = 8001,
        http_port: int = 8000,
        metrics_port: int = 8002,
        free_ports: bool = False,
        log_file: Path | str | None = None,
        ready_timeout_s: float = 600.0,
        self_test: bool = True,
        explain: bool = False,
        security: Security | None = None,
        tracing: Tracing | None = None,
        launch: Launch | None = None,
    ):
        """Describe the server; `start`, or entering the context, starts it.

        Args:
            repository: folder of the models.
            grpc_port: port of gRPC; likewise `http_port` and `metrics_port`.
            free_ports: ignore the three ports and take free ones.
            log_file: file that tritonserver writes to, replaced at each start, or `STDERR`;
                default: logs/serve-<grpc port>.log under the root of this checkout.
            ready_timeout_s: how long the models may take to load.
            self_test: the repository holds the ensemble `ma_agiqa`: require its parts before the
                start, and one real inference after it.
            explain: also serve `mplug_owl2_answer`, which answers questions about images.
            security: who may connect; default: everyone who reaches the ports.
            tracing: where to send OpenTelemetry traces; None sends none.
            launch: which tritonserver is started, and how; default: the embedded one.
        """
        self.repository = Path(repository).resolve()
        self._wanted_ports = None if free_ports else Ports(grpc_port, http_port, metrics_port)
        self._wanted_log_file = Path(log_file) if log_file else None
        self._ready_timeout_s = ready_timeout_s
        self._self_test = self_test
        self._explain = explain
        self.security = security or Security()
        self._tracing = tracing
        self._launch = launch or Launch()
        self._server: TritonServer | None = None
        self.model = None

    @property
    def grpc_url(self) -> str:
        """host:port, as tritonclient.grpc takes it."""
        return f"{self._launch.local_address}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """http://host:port, without a path."""
        return f"http://{self._launch.local_address}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{self._launch.local_address}:{self.ports.metrics}/metrics"

    def __enter__(self) -> "EmbeddedTriton":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until every model is loaded and, if asked, has answered.

        Raises:
            UnsupportedMachineError: the server cannot run here.
            RepositoryError: the repository is missing or incomplete.
            PortBusyError: a port is taken.
            ServerFailedError: a model does not load, or the self-test fails.
        """
        if self._server:
            raise ServeError("The server is already running: stop it first.")
        embedded = self._launch.tritonserver is None
        check_repository(self.repository, self._self_test, self._explain, embedded)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self._start_once()
                return
            except ServerFailedError as error:
                again = self._wanted_ports is None and attempt < PORT_ATTEMPTS
                if not (again and lost_the_race_for_a_port(error.log_file)):
                    raise
                logger.info("another program took a free port, trying other ones")

    def stop(self, failed: bool = False) -> None:
        """Stop the server and remove what it used; does nothing if it does not run.

        Args:
            failed: the server no longer scores, so do not wait for what it computes.
        """
        if self._server:
            self.http.close()
            self._server.stop(failed)
            self._server = None

    @property
    def pid(self) -> int:
        """Process id of tritonserver, which leads the group of its stubs."""
        pid = self._require_running().pid
        if pid is None:
            raise self._failure("tritonserver did not start.")
        return pid

    def is_running(self) -> bool:
        """Whether the server has been started, and has not ended or been stopped."""
        return self._server is not None and not self._server.has_ended()

    def restart(self) -> None:
        """Stop what is left of a server that failed and start it at the same ports.

        The log before is kept, as `.previous.log`.

        Raises:
            ServeError: as in `start`.
        """
        self.stop(failed=True)
        self._wanted_ports = self.ports
        if self.log_file:
            with contextlib.suppress(OSError):
                self.log_file.replace(previous_log(self.log_file))
        self.start()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and finish those in flight; return whether that took no longer."""
        self._require_running()
        return drain(self.http, timeout_s)

    def check(self) -> list[str]:
        """Look at the processes.

        Returns:
            Models with a process that has ended: it has died, or its version was unloaded.

        Raises:
            ServerFailedError: the server itself has ended.
        """
        server = self._require_running()
        if server.has_ended():
            raise self._failure("tritonserver ended unexpectedly.")
        return server.dead_models()

    def accept_processes(self) -> list[str]:
        """Expect the processes that are alive now, and no other: the server scores with them.

        Returns:
            Models of which a version has lost some of its processes, and not all as one that was
            unloaded: what the lost ones get will fail. Then nothing is accepted.
        """
        server = self._require_running()
        halved = server.halved_models()
        if not halved:
            server.note_processes()
        return halved

    def _require_running(self) -> TritonServer:
        if self._server is None:
            raise ServeError("The server does not run: start it first.")
        return self._server

    def _failure(self, what: str) -> ServerFailedError:
        return ServerFailedError(f"{what} {explain_failure(self.log_file)}", self.log_file)

    def _start_once(self) -> None:
        self.ports = find_ports(self._wanted_ports, self._launch.address)
        self.log_file = self._choose_log_file()
        self.http = TritonHttp(self.http_url, self.security.closed_key)
        try:
            models = models_to_load(self.repository, self._explain)
            compile_models(self.repository, models)
            self._server = TritonServer(
                self.repository,
                models,
                self.ports,
                self.log_file,
                self.security,
                self._launch,
                self._tracing,
            )
            self._wait_until_ready(self._server)
            self._server.mark_ready()
            if self._self_test:
                self.model = self._test()
        except BaseException:
            self.stop()
            raise

    def _choose_log_file(self) -> Path | None:
        if self._wanted_log_file == STDERR:
            return None
        default = REPOSITORY_ROOT / "logs" / f"serve-{self.ports.grpc}.log"
        return (self._wanted_log_file or default).resolve()

    def _wait_until_ready(self, server: TritonServer) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not self.http.is_ok(f"{self.http_url}/v2/health/ready", ANSWER_TIMEOUT_S):
            self._check_start(server, deadline)
        # tritonserver continues without metrics if their port is taken.
        while self._launch.has_metrics and not self.http.is_ok(self.metrics_url, ANSWER_TIMEOUT_S):
            if lost_the_race_for_a_port(self.log_file):
                raise self._failure("tritonserver did not start.")
            self._check_start(server, deadline)

    def _check_start(self, server: TritonServer, deadline: float) -> None:
        if server.has_ended():
            raise self._failure("tritonserver did not start.")
        if time.monotonic() > deadline:
            raise ServerFailedError(
                f"tritonserver was not ready within {self._ready_timeout_s:g} s: allow more "
                f"with --ready-timeout. {where_is(self.log_file)}",
                self.log_file,
            )
        time.sleep(POLL_S)

    def _test(self) -> ServedModel:
        try:
            return self_test(self.http)
        except NotScoringError as error:
            text = f"The server started, but {error}. {where_is(self.log_file)}"
            raise ServerFailedError(text, self.log_file) from error
