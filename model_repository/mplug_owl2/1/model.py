"""Triton model `mplug_owl2`: views to the two prompt embeddings of the frozen LMM (Eq. 3).

For the model `mplug_owl2_answer` it also gives the next token of an answer, so that the weights are
in memory once. Triton batches such requests apart from the others.
"""

import json
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.serving import deadlines
from ma_agiqa.serving.memory import run_in_parts
from ma_agiqa.serving.metrics import StepMetrics, counted

OUTPUTS = {"SEMANTIC": "semantic", "COHERENCE": "coherence"}


class TritonPythonModel:
    """SEMANTIC_VIEW uint8 (B, side, side, 3) -> SEMANTIC, COHERENCE float32 (B, hidden).

    With PROMPT int32 (1, T), for one image: -> NEXT_TOKEN int32 (1, 1) instead.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._source = parameters["weights"]["string_value"]
        self._answerer: Any = None
        on_gpu = args["model_instance_kind"] == "GPU"
        self._embedder = build_embedder(
            source=self._source,
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            dtype=parameters["dtype"]["string_value"],
        )
        self.metrics = StepMetrics(pb_utils, "mplug_owl2", images="SEMANTIC_VIEW", unless="PROMPT")

    def finalize(self) -> None:
        self.metrics.meter.close()

    @counted
    def execute(self, requests: list[Any]) -> list[Any]:
        reasons = [deadlines.unwanted(request, "mplug_owl2") for request in requests]
        wanted = [r for r, reason in zip(requests, reasons, strict=True) if reason is None]
        answers = iter(self._answer(wanted))
        return [_too_late(reason) if reason else next(answers) for reason in reasons]

    def _answer(self, requests: list[Any]) -> list[Any]:
        plain = [request for request in requests if _prompt(request) is None]
        embedded = iter(self._embed(plain) if plain else [])
        return [next(embedded) if _prompt(r) is None else self._next_token(r) for r in requests]

    def _embed(self, requests: list[Any]) -> list[Any]:
        views = [_view(request) for request in requests]
        try:
            embedded = run_in_parts(self._embedder, views)
        except Exception as error:  # answer every request; details are for the log alone
            pb_utils.Logger.log_error(f"mplug_owl2 failed: {error!r}")
            return [_failure("prompt embeddings") for _ in requests]
        if None in embedded:
            pb_utils.Logger.log_error("mplug_owl2 has too little memory for one image")
        return [_no_memory() if each is None else _embeddings(each) for each in embedded]

    def _next_token(self, request: Any) -> Any:
        # Here, so that scores do not depend on what only answers need.
        from ma_agiqa.errors import CannotAnswerError, QuestionError
        from ma_agiqa.lmm.answers import Answerer, language_head

        try:
            if self._answerer is None:  # the language head is read at the first question
                head = language_head(self._source, self._embedder.model)
                self._answerer = Answerer(self._embedder, head)
            views, prompts = _view(request), _prompt(request)
            if len(views) != 1:
                raise QuestionError(f"PROMPT came with {len(views)} images; send one.")
            token = self._answerer.next_token(views[0], prompts.as_numpy()[0].tolist())
        except QuestionError as error:
            return _refusal(error, pb_utils.TritonError.INVALID_ARG)
        except CannotAnswerError as error:
            pb_utils.Logger.log_error(f"mplug_owl2 cannot answer: {error.__cause__ or error!r}")
            return _refusal(error, pb_utils.TritonError.UNSUPPORTED)
        except Exception as error:  # details are for the log alone
            pb_utils.Logger.log_error(f"mplug_owl2 failed: {error!r}")
            return _failure("next token")
        tensor = torch.tensor([[token]], dtype=torch.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("NEXT_TOKEN", tensor)])


def _embeddings(embeddings: dict[str, torch.Tensor]) -> Any:
    tensors = {name: embeddings[prompt].contiguous() for name, prompt in OUTPUTS.items()}
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor.from_dlpack(name, tensor) for name, tensor in tensors.items()]
    )


def _no_memory() -> Any:
    return _refusal(
        "The server has too little memory for this image now. Send it again later.",
        pb_utils.TritonError.UNAVAILABLE,
    )


def _view(request: Any) -> torch.Tensor:
    tensor = pb_utils.get_input_tensor_by_name(request, "SEMANTIC_VIEW")
    return torch.from_dlpack(tensor.to_dlpack())


def _prompt(request: Any) -> Any:
    """The tensor PROMPT, or None."""
    return pb_utils.get_input_tensor_by_name(request, "PROMPT")


def _too_late(reason: str) -> Any:
    fault = pb_utils.TritonError(reason, pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=fault)


def _refusal(error: object, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def _failure(what: str) -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(
            f"The {what} could not be computed; the server's log says why.",
            pb_utils.TritonError.INTERNAL,
        )
    )
