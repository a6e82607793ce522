"""Serve the model repository with the embedded tritonserver: `python deploy/serve.py --help`."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from embedded.server import REPOSITORY_ROOT, EmbeddedTriton, Security, ServeError, Tracing
from embedded.supervisor import Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PORT = click.IntRange(1, 65535)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


class _StopAsked(BaseException):
    """A signal asked for the end; not an Exception, so that no handler takes it for a failure."""


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="""\b
Examples:
  python deploy/serve.py                          # ports 8001, 8000 and 8002
  python deploy/serve.py --free-ports --json      # for programs: one JSON line when ready
  python deploy/serve.py --explain                # answers questions about images, too
  python deploy/serve.py --grpc-port 9001 --http-port 9000 --metrics-port 9002
  python deploy/serve.py --tls-cert server.pem --tls-key server.key --token-file token
""",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=REPOSITORY_ROOT / "model_repository",
    show_default="model_repository of this checkout",
    help="Folder of the models.",
)
@click.option("--grpc-port", type=PORT, default=8001, help="Port of gRPC, which clients use.")
@click.option("--http-port", type=PORT, default=8000, help="Port of HTTP.")
@click.option("--metrics-port", type=PORT, default=8002, help="Port of the Prometheus metrics.")
@click.option("--free-ports", is_flag=True, help="Take free ports instead of these three.")
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="logs/serve-<grpc port>.log of this checkout",
    help="Where the server writes; replaced at each start.",
)
@click.option(
    "--ready-timeout",
    "ready_timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    help="How long the models may take to load.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Also serve mplug_owl2_answer, which explains images in words; it shares the weights.",
)
@click.option(
    "--tls-cert", metavar="PEM", type=_FILE, help="Encrypt gRPC; the server's certificate chain."
)
@click.option("--tls-key", metavar="PEM", type=_FILE, help="The private key of --tls-cert.")
@click.option(
    "--tls-client-ca",
    metavar="PEM",
    type=_FILE,
    help="Ask every client for a certificate of one of these issuers (mutual TLS).",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=_FILE,
    help="Ask every client for the bearer token in this file. The process list of this machine "
    "shows it: against its other users, ask for certificates.",
)
@click.option(
    "--trace-url",
    metavar="URL",
    help="Send OpenTelemetry traces to a collector (OTLP over HTTP), such as "
    "http://localhost:4318/v1/traces.",
)
@click.option(
    "--trace-one-in",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Trace one of N requests.",
)
@click.option(
    "--restarts",
    metavar="N",
    type=click.IntRange(min=0),
    default=5,
    help="How often in ten minutes a server that fails is started again.",
)
@click.option(
    "--canary-interval",
    "canary_interval_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    help="How often a test image is scored, to notice that the server does not.",
)
@click.option(
    "--drain-timeout",
    "drain_timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=30.0,
    help="How long the requests under way may take at the end; new ones are refused.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the status line as a JSON object.")
@click.option(
    "--until-stdin-closes",
    is_flag=True,
    help="Stop when stdin ends, so that nothing outlives the program that started this one.",
)
def main(
    repository: Path,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    free_ports: bool,
    log_file: Path | None,
    ready_timeout_s: float,
    explain: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    token_file: Path | None,
    trace_url: str | None,
    trace_one_in: int,
    restarts: int,
    canary_interval_s: float,
    drain_timeout_s: float,
    as_json: bool,
    until_stdin_closes: bool,
) -> None:
    """Serve the model repository with a real tritonserver on this machine only (127.0.0.1).

    Prints one line when every model is loaded and a test image is scored, then serves until Ctrl-C
    or SIGTERM, which lets the requests under way finish. A server that dies or does not score any
    more is started again. Exits with 1 if the server cannot start or fails too often.
    """
    try:
        security = Security.read(tls_cert, tls_key, tls_client_ca, token_file)
    except ServeError as error:
        raise click.UsageError(str(error)) from error
    server = EmbeddedTriton(
        repository,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        free_ports=free_ports,
        log_file=log_file,
        ready_timeout_s=ready_timeout_s,
        explain=explain,
        security=security,
        tracing=Tracing(trace_url, trace_one_in) if trace_url else None,
    )
    if until_stdin_closes:
        threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
    sys.exit(_serve(server, as_json, restarts, canary_interval_s, drain_timeout_s))


def _serve(
    server: EmbeddedTriton,
    as_json: bool,
    restarts: int,
    canary_interval_s: float,
    drain_timeout_s: float,
) -> int:
    """Serve until a signal, or until failures are too many; return the exit status."""
    running = False
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, _raise_stop)
        if sys.stderr.isatty():
            click.echo("Starting the server and loading the models ...", err=True)
        server.start()
        click.echo(_status_json(server) if as_json else _status_line(server))
        running = True
        Supervisor(server, restarts, canary_interval_s, _say).run()
    except _StopAsked:
        if running and server.is_running() and not server.drain(drain_timeout_s):
            _say("Some requests were not finished.")
        return 0
    except ServeError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    finally:
        _ignore_stop_signals()
        server.stop()


def _say(text: str) -> None:
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
    return (
        f"Serving {name}{note} at {server.grpc_url} (gRPC), {server.http_url} and "
        f"{server.metrics_url}; log {server.log_file}; Ctrl-C stops it."
    )


def _status_json(server: EmbeddedTriton) -> str:
    return json.dumps(
        {
            "grpc_url": server.grpc_url,
            "http_url": server.http_url,
            "metrics_url": server.metrics_url,
            "model": server.model.name if server.model else None,
            "log_file": str(server.log_file),
            "pid": os.getpid(),
        }
    )


if __name__ == "__main__":
    main()
