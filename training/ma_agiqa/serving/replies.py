"""What the served models answer requests with: tensors, or an error in one sentence.

    refusal    the request cannot be served; the sentence says why, and what to do
    failure    something went wrong here; the sentence says what, the details go to the log alone
    too late   the client no longer waits for the answer, see `deadlines`

An exception that leaves `execute` would send its traceback, with the server's paths, to every
client of the batch.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ma_agiqa.serving import deadlines


class Replies:
    """Makes the responses of one served model."""

    def __init__(self, triton: Any, model: str) -> None:
        """Name the model.

        Args:
            triton: the module `triton_python_backend_utils`.
            model: name of the model, for the log and for requests that come too late.
        """
        self._triton = triton
        self._model = model

    def tensors(self, outputs: Mapping[str, Any]) -> Any:
        """Answer with tensors.

        Args:
            outputs: NumPy arrays or contiguous torch tensors, by name.
        """
        return self._triton.InferenceResponse(
            [self._tensor(name, values) for name, values in outputs.items()]
        )

    def refusal(self, reason: object, code: str) -> Any:
        """Answer that the request cannot be served.

        Args:
            reason: a sentence, or an error whose text is one.
            code: name of a code of Triton's errors, such as "INVALID_ARG".
        """
        error = self._triton.TritonError(str(reason), getattr(self._triton.TritonError, code))
        return self._triton.InferenceResponse(error=error)

    def failure(self, error: object, sentence: str) -> Any:
        """Answer that something went wrong here, and write the details to the server's log.

        Args:
            error: an error, or its traceback as text, for the log.
            sentence: what the client reads; it holds no detail of the server.
        """
        return self.failures(1, error, sentence)[0]

    def failures(self, requests: int, error: object, sentence: str) -> list[Any]:
        """Answer several requests that failed together; the log gets one line.

        Args:
            requests: number of requests.
            error: as for `failure`.
            sentence: as for `failure`.
        """
        details = repr(error) if isinstance(error, BaseException) else error
        self._triton.Logger.log_error(f"{self._model} failed: {details}")
        return [self.refusal(sentence, "INTERNAL") for _ in range(requests)]

    def in_time(self, requests: list[Any], answer: Callable[[list[Any]], Iterable[Any]]) -> list:
        """Answer the requests that a client still waits for, and refuse the others.

        Args:
            requests: as Triton gives them to `execute`.
            answer: requests to their responses, in their order; not called without requests.

        Returns:
            The responses, in the order of the requests.
        """
        reasons = [deadlines.unwanted(request, self._model) for request in requests]
        wanted = [r for r, reason in zip(requests, reasons, strict=True) if reason is None]
        answers = iter(answer(wanted) if wanted else ())
        return [
            next(answers) if reason is None else self.refusal(reason, "CANCELLED")
            for reason in reasons
        ]

    def _tensor(self, name: str, values: Any) -> Any:
        # NumPy's DLPack capsules crash the stub of Triton 2.51, so arrays go in as they are: right
        # with NumPy 1 everywhere, and with NumPy 2 from 24.12 on.
        if isinstance(values, np.ndarray):
            return self._triton.Tensor(name, values)
        return self._triton.Tensor.from_dlpack(name, values)
