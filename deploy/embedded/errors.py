"""Errors of the embedded server, all under one root.

    ServeError
    ├── UnsupportedMachineError   platform, Python, numpy or wheel: the server cannot run here
    ├── PortBusyError             something else listens on a port that was asked for
    ├── RepositoryError           the model repository is missing or incomplete
    └── ServerFailedError         tritonserver ended, never became ready, or does not score

A message says what was found, what was expected and what to do next.
"""

from pathlib import Path


class ServeError(Exception):
    """Root of every error the embedded server raises on purpose."""


class UnsupportedMachineError(ServeError):
    """The embedded server cannot run on this machine or in this environment."""


class PortBusyError(ServeError):
    """A port that was asked for is taken."""


class RepositoryError(ServeError):
    """The model repository is missing or incomplete."""


class ServerFailedError(ServeError):
    """tritonserver failed.

    Attributes:
        log_file: log that tritonserver wrote; None if it wrote to this process's stderr.
    """

    def __init__(self, message: str, log_file: Path | None):
        super().__init__(message)
        self.log_file = log_file
