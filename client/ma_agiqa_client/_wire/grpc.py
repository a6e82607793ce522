"""How calls reach a server from threads, by gRPC."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import (
    InferResult,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException

from ma_agiqa_client._core.protocol import InferRequest, Result, model_name
from ma_agiqa_client.connection import Connection

GRACE_S = 1.0
"""Seconds after its deadline at which a call counts as failed, whether or not gRPC has ended it.

In a process that was forked while gRPC was at work, gRPC may never do so.
"""


_FORK_WAIT_S = 5.0  # longest that a fork waits for calls that are being started


class _ForkGate:
    """Keeps a process from being forked while one of its threads starts or cancels a call.

    Meanwhile that thread holds a lock of the channel, and gRPC's own handler for forks takes the
    same lock in the child, where no thread would ever release it: `os.fork` would not return.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waited = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._close, after_in_parent=self._open, after_in_child=self._renew
            )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _close(self) -> None:
        self._waited = self._lock.acquire(timeout=_FORK_WAIT_S)

    def _open(self) -> None:
        if self._waited:
            self._waited = False
            self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


_no_fork = _ForkGate()


class GrpcTransport:
    """One gRPC channel, kept open."""

    def __init__(self, url: str, connection: Connection) -> None:
        """Prepare the channel; it connects at the first call.

        Raises:
            ValueError: a certificate cannot be read.
        """
        self._connection = connection
        self._model = model_name(connection.version)
        self._channel = connection.open_channel(url, grpc)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, request: InferRequest, timeout_s: float) -> "_Pending":
        """Send an image to the ensemble."""
        return self._start(self._stub.ModelInfer, request.message(self._model), timeout_s)

    def model_config(self, timeout_s: float) -> Any:
        """Return the ensemble's configuration, the protobuf `ModelConfig`."""
        request = service_pb2.ModelConfigRequest(name=self._model)
        return self._start(self._stub.ModelConfig, request, timeout_s).message().config

    def model_ready(self, timeout_s: float) -> bool:
        """Return whether the ensemble and all its models are loaded."""
        request = service_pb2.ModelReadyRequest(name=self._model)
        return bool(self._start(self._stub.ModelReady, request, timeout_s).message().ready)

    @contextmanager
    def stream(self, request: Any, timeout_s: float) -> Iterator[Iterator[Any]]:
        """Ask for several answers; they end with the context."""
        options = self._connection.call_options(timeout_s)
        with failures():
            with _no_fork:
                answers = self._stub.ModelStreamInfer(iter([request]), **options)
            try:
                yield answers
            finally:
                with _no_fork:
                    answers.cancel()

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        with _no_fork:
            self._channel.close()

    def _start(self, method: Any, request: Any, timeout_s: float) -> "_Pending":
        options = self._connection.call_options(timeout_s)
        with _no_fork:
            call = method.future(request, **options)
        return _Pending(call, timeout_s)


class _Pending:
    """A call in flight."""

    def __init__(self, call: Any, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = min(timeout_s, 1e9) + GRACE_S

    def message(self) -> Any:
        """Wait for the answer, a protobuf message."""
        with failures():
            return self._call.result(self._timeout_s)

    def result(self) -> Result:
        """Wait for the answer to an image."""
        result: Result = InferResult(self.message())
        return result

    def cancel(self) -> None:
        """Cancel the call: `result` raises. Does nothing once it is answered."""
        with _no_fork:
            self._call.cancel()


@contextmanager
def failures() -> Iterator[None]:
    """Raise what a transport raises in place of gRPC's own errors."""
    status, message = "", ""
    try:
        yield
        return
    except grpc.RpcError as error:
        status, message, cause = str(error.code()), error.details() or "", error
    except (grpc.FutureTimeoutError, asyncio.TimeoutError) as error:
        status, message, cause = str(grpc.StatusCode.DEADLINE_EXCEEDED), "gRPC is silent", error
    except grpc.FutureCancelledError as error:
        status, message, cause = str(grpc.StatusCode.CANCELLED), "this client cancelled it", error
    raise InferenceServerException(message, status) from cause
