"""Serve the model repository with tritonserver: `python deploy/serve.py --help`."""

import json
import os
import signal
import sys
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import click

from embedded.errors import ServeError
from embedded.health import Health, NotScoringError
from embedded.http import TritonHttp
from embedded.launch import LOOPBACK, Launch, Tracing
from embedded.log import output_as_json
from embedded.security import Security, read_key
from embedded.server import REPOSITORY_ROOT, EmbeddedTriton
from embedded.supervisor import Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PORT = click.IntRange(1, 65535)
_SECONDS = click.FloatRange(min=0, min_open=True)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_option = partial(click.option, show_envvar=True)


class _StopAsked(BaseException):
    """A signal asked for the end; not an Exception, so that no handler takes it for a failure."""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    options_metavar="[OPTIONS] [--",
    epilog="""\b
Examples:
  python deploy/serve.py                          # ports 8001, 8000 and 8002
  python deploy/serve.py --free-ports --json      # for programs: one JSON line when ready
  python deploy/serve.py --explain                # also answers questions about images
  python deploy/serve.py --grpc-port 9001 --http-port 9000 --metrics-port 9002
  python deploy/serve.py --tls-cert server.pem --tls-key server.key --token-file token
  python deploy/serve.py --tritonserver /opt/tritonserver/bin/tritonserver --address 0.0.0.0 \\
    -- --grpc-max-connection-age=30000
  python deploy/serve.py --check                  # whether the server on this machine scores
""",
)
@_option(
    "--repository",
    envvar="MODEL_REPOSITORY",
    type=click.Path(path_type=Path),
    default=REPOSITORY_ROOT / "model_repository",
    show_default="model_repository of this checkout",
    help="Folder of the models.",
)
@_option(
    "--explain",
    envvar="EXPLAIN",
    is_flag=True,
    help="Also serve mplug_owl2_answer, which explains images in words; it shares the weights.",
)
@_option("--grpc-port", type=PORT, default=8001, help="Port of gRPC, which clients use.")
@_option("--http-port", type=PORT, default=8000, help="Port of HTTP.")
@_option("--metrics-port", type=PORT, default=8002, help="Port of the Prometheus metrics.")
@_option("--free-ports", is_flag=True, help="Take free ports instead of these three.")
@_option(
    "--tritonserver",
    metavar="PROGRAM",
    type=click.Path(path_type=Path),
    show_default="the one in the wheel nvidia-pytriton",
    help="The tritonserver to run.",
)
@_option(
    "--address",
    metavar="IP",
    default=LOOPBACK,
    help="Listen on this address; another than the default needs --tritonserver.",
)
@_option(
    "--cores",
    envvar="MA_AGIQA_CORES",
    metavar="N",
    type=click.IntRange(min=1),
    show_default="the cores that this process may use",
    help="Decode this many images in parallel, and use half as many threads in each of the "
    "two networks.",
)
@_option(
    "--shm-prefix",
    envvar="SHM_PREFIX",
    metavar="NAME",
    show_default="another at each start",
    help="Begin the names of regions in /dev/shm with this, and remove those that a killed server "
    "left. Servers that share /dev/shm need different ones.",
)
@_option(
    "--log-file",
    type=_NEW_FILE,
    show_default="logs/serve-<grpc port>.log of this checkout",
    help="File that the server writes to, replaced at each start; - is stderr.",
)
@_option(
    "--log-format",
    envvar="LOG_FORMAT",
    type=click.Choice(["text", "json"]),
    default="text",
    help="json: write all output, and the log of `--log-file -`, as JSON lines on stdout.",
)
@_option(
    "--ready-timeout",
    "ready_timeout_s",
    envvar="READY_TIMEOUT_S",
    metavar="SECONDS",
    type=_SECONDS,
    default=600.0,
    help="How long the models may take to load.",
)
@_option("--tls-cert", metavar="PEM", type=_FILE, help="Encrypt gRPC; certificate chain.")
@_option("--tls-key", metavar="PEM", type=_FILE, help="Private key of --tls-cert.")
@_option(
    "--tls-client-ca",
    metavar="PEM",
    type=_FILE,
    help="Require a certificate of one of these issuers from every client (mutual TLS).",
)
@_option(
    "--token-file",
    metavar="FILE",
    type=_FILE,
    help="Require the bearer token in this file from every client. Other users of this machine "
    "can see it in the process list; to protect against them, require certificates.",
)
@_option(
    "--admin-key",
    envvar="MA_AGIQA_ADMIN_KEY",
    metavar="KEY",
    show_default="a random key, in a file next to the log file",
    help="Clients that send this key may load and unload models.",
)
@_option(
    "--probe-key-file",
    envvar="PROBE_KEY_FILE",
    type=_NEW_FILE,
    help="File for the key that --check needs, readable by this user only.",
)
@_option(
    "--trace-url",
    envvar="TRACE_URL",
    metavar="URL",
    help="Send OpenTelemetry traces to a collector (OTLP over HTTP), such as "
    "http://localhost:4318/v1/traces.",
)
@_option(
    "--trace-one-in",
    envvar="TRACE_ONE_IN",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Trace one of N requests.",
)
@_option(
    "--restarts",
    envvar="RESTARTS",
    metavar="N",
    type=click.IntRange(min=0),
    default=5,
    help="Maximum number of restarts in ten minutes.",
)
@_option(
    "--check-interval",
    "check_interval_s",
    envvar="WATCH_S",
    metavar="SECONDS",
    type=_SECONDS,
    default=5.0,
    help="How often a test image is scored, to notice that the server does not score.",
)
@_option(
    "--drain-timeout",
    "drain_timeout_s",
    envvar="DRAIN_S",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=30.0,
    help="How long requests in flight may take after SIGTERM; new ones are refused. Requests "
    "that are still being computed then get the same time again.",
)
@_option("--json", "as_json", is_flag=True, help="Print the status line as a JSON object.")
@_option(
    "--until-stdin-closes",
    is_flag=True,
    help="Stop when stdin ends, so that nothing outlives the program that started this one.",
)
@_option(
    "--check",
    is_flag=True,
    help="Start nothing: have the server on this machine score a test image; exit status 0 if it "
    "does, or if it is busy scoring others. Uses --address, --http-port and --probe-key-file.",
)
@_option(
    "--check-timeout",
    "check_timeout_s",
    metavar="SECONDS",
    type=_SECONDS,
    default=10.0,
    help="How long --check may take.",
)
@click.argument("triton_options", nargs=-1, type=click.UNPROCESSED, metavar="TRITON_OPTIONS...]")
def main(**options: Any) -> None:
    """Serve the model repository with a real tritonserver, on this machine only by default.

    Prints one line when every model is loaded and a test image is scored, then serves until Ctrl-C
    or SIGTERM, and lets requests in flight finish. A server that dies, or no longer scores, is
    restarted. Exits with 1 if the server cannot start or fails too often.

    Options of tritonserver may follow after --.
    """
    given = SimpleNamespace(**options)
    if given.check:
        sys.exit(_check(given))
    if given.address != LOOPBACK and given.tritonserver is None:
        raise click.UsageError(
            f"--address {given.address}: the embedded tritonserver lacks later security fixes and "
            f"serves {LOOPBACK} only. Give a current one with --tritonserver."
        )
    try:
        server = _server(given)
    except ServeError as error:
        raise click.UsageError(str(error)) from error
    if given.until_stdin_closes:
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    with output_as_json() if given.log_format == "json" else nullcontext():
        status = _serve(server, given)
    sys.exit(status)


def _server(given: SimpleNamespace) -> EmbeddedTriton:
    return EmbeddedTriton(
        given.repository,
        grpc_port=given.grpc_port,
        http_port=given.http_port,
        metrics_port=given.metrics_port,
        free_ports=given.free_ports,
        log_file=given.log_file,
        ready_timeout_s=given.ready_timeout_s,
        explain=given.explain,
        security=Security.read(
            given.tls_cert, given.tls_key, given.tls_client_ca, given.token_file
        ),
        tracing=Tracing(given.trace_url, given.trace_one_in) if given.trace_url else None,
        launch=Launch(
            tritonserver=given.tritonserver,
            address=given.address,
            cores=given.cores,
            admin_key=given.admin_key,
            shm_prefix=given.shm_prefix,
            probe_key_file=given.probe_key_file,
            exit_timeout_s=round(given.drain_timeout_s),
            options=given.triton_options,
        ),
    )


def _check(given: SimpleNamespace) -> int:
    """Print whether a server is alive; return the exit status."""
    address, timeout_s = Launch(address=given.address).local_address, given.check_timeout_s
    server = TritonHttp(f"http://{address}:{given.http_port}", read_key(given.probe_key_file))
    try:
        scores = Health(server).check(timeout_s, deadline_s=timeout_s)
    except NotScoringError as error:
        click.echo(f"Error: {error}.", err=True)
        return 1
    found = ", ".join(f"{score:.3f}" for score in scores)
    click.echo(f"Alive, score {found}." if scores else "Alive, and busy with other images.")
    return 0


def _serve(server: EmbeddedTriton, given: SimpleNamespace) -> int:
    """Serve until a signal, or until there are too many failures; return the exit status."""
    running = failed = False
    try:
        for number in STOP_SIGNALS:
            ignored = signal.getsignal(number) is signal.SIG_IGN  # by nohup, or by a shell's &
            if number == signal.SIGTERM or not ignored:
                signal.signal(number, _raise_stop)
        if sys.stderr.isatty():
            click.echo("Starting the server and loading the models ...", err=True)
        server.start()
        click.echo(_status_json(server) if given.as_json else _status_line(server))
        running = True
        Supervisor(server, given.restarts, given.check_interval_s, _report).run()
    except _StopAsked:
        if running and server.is_running() and not server.drain(given.drain_timeout_s):
            _report("Some requests were not finished: --drain-timeout gives them more time.")
        return 0
    except ServeError as error:
        _report(f"Error: {error}")
        failed = True
        return 1
    finally:
        _ignore_stop_signals()
        server.stop(failed)


def _report(text: str) -> None:
    click.echo(text, err=True)


def _raise_stop(number: int, frame: FrameType | None) -> None:
    _ignore_stop_signals()  # the end must not be interrupted by a second Ctrl-C
    raise _StopAsked


def _ignore_stop_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop_when_stdin_closes() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass  # there is no stdin at all: the same as a closed one
    os.kill(os.getpid(), signal.SIGTERM)


def _status_line(server: EmbeddedTriton) -> str:
    name = server.model.name if server.model else "the repository"
    note = f" ({server.model.note})" if server.model and server.model.note else ""
    log = f"; log {server.log_file}" if server.log_file else ""
    return (
        f"Serving {name}{note} at {server.grpc_url} (gRPC), {server.http_url} and "
        f"{server.metrics_url}{log}; Ctrl-C stops it."
    )


def _status_json(server: EmbeddedTriton) -> str:
    return json.dumps(
        {
            "grpc_url": server.grpc_url,
            "http_url": server.http_url,
            "metrics_url": server.metrics_url,
            "model": server.model.name if server.model else None,
            "log_file": str(server.log_file) if server.log_file else None,
            "pid": os.getpid(),
        }
    )


if __name__ == "__main__":
    main()
