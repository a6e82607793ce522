"""Triton model `mplug_owl2`: views to the two prompt embeddings of the frozen LMM (Eq. 3).

For the model `mplug_owl2_answer` it also gives the next token of an answer, so that the weights are
in memory once. Triton batches such requests apart from the others.
"""

import json
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from ma_agiqa.lmm.identity import EmbedderIdentity
from ma_agiqa.lmm.sources import build_embedder
from ma_agiqa.serving.memory import run_in_parts
from ma_agiqa.serving.metrics import StepMetrics, counted
from ma_agiqa.serving.replies import Replies

OUTPUTS = {"SEMANTIC": "semantic", "COHERENCE": "coherence"}


class TritonPythonModel:
    """SEMANTIC_VIEW uint8 (B, side, side, 3) -> SEMANTIC, COHERENCE float32 (B, hidden).

    With PROMPT int32 (1, T), for one image: -> NEXT_TOKEN int32 (1, 1) instead.
    """

    def initialize(self, args: dict[str, str]) -> None:
        given = json.loads(args["model_config"])["parameters"].items()
        parameters = {name: value["string_value"] for name, value in given}
        self._source = parameters["embedder"]
        self._answerer: Any = None
        on_gpu = args["model_instance_kind"] == "GPU"
        self._embedder = build_embedder(
            source=self._source,
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            dtype=parameters["dtype"],
        )
        _check_binding(parameters)  # afterwards, when weights of the hub are here
        self.metrics = StepMetrics(pb_utils, "mplug_owl2", images="SEMANTIC_VIEW", unless="PROMPT")
        self._replies = Replies(pb_utils, "mplug_owl2")

    def finalize(self) -> None:
        self.metrics.meter.close()

    @counted
    def execute(self, requests: list[Any]) -> list[Any]:
        return self._replies.in_time(requests, self._answer)

    def _answer(self, requests: list[Any]) -> list[Any]:
        plain = [request for request in requests if _prompt(request) is None]
        embedded = iter(self._embed(plain) if plain else [])
        return [next(embedded) if _prompt(r) is None else self._next_token(r) for r in requests]

    def _embed(self, requests: list[Any]) -> list[Any]:
        views = [_view(request) for request in requests]
        try:
            embedded = run_in_parts(self._embed_to_cpu, views)
        except Exception as error:
            sentence = "The prompt embeddings could not be computed; the server's log says why."
            return self._replies.failures(len(requests), error, sentence)
        if None in embedded:
            pb_utils.Logger.log_error("mplug_owl2 has too little memory for one image")
        return [self._embeddings(each) for each in embedded]

    def _embed_to_cpu(self, views: torch.Tensor) -> dict[str, torch.Tensor]:
        # 32 KB an image: between processes CUDA's own shared memory would save little.
        return {name: values.cpu() for name, values in self._embedder(views).items()}

    def _embeddings(self, embeddings: dict[str, torch.Tensor] | None) -> Any:
        """The embeddings of one request, or a refusal if there was too little memory for them."""
        if embeddings is None:
            return self._replies.refusal(
                "The server has too little memory for this image now. Send it again later.",
                "UNAVAILABLE",
            )
        return self._replies.tensors({n: embeddings[p].contiguous() for n, p in OUTPUTS.items()})

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
            return self._replies.refusal(error, "INVALID_ARG")
        except CannotAnswerError as error:
            pb_utils.Logger.log_error(f"mplug_owl2 cannot answer: {error.__cause__ or error!r}")
            return self._replies.refusal(error, "UNSUPPORTED")
        except Exception as error:
            sentence = "The next token could not be computed; the server's log says why."
            return self._replies.failure(error, sentence)
        return self._replies.tensors({"NEXT_TOKEN": torch.tensor([[token]], dtype=torch.int32)})


def _check_binding(parameters: dict[str, str]) -> None:
    """Refuse weights or prompts that are not those with which the scorers were trained."""
    found = EmbedderIdentity.of(parameters["embedder"], parameters["dtype"])
    prompts = {name: [*ids] for name, ids in found.prompts.items()}
    for what, wanted, here in (
        ("weights", parameters.get("weights_sha256"), found.weights_sha256),
        ("prompts", parameters.get("prompts"), json.dumps(prompts)),
    ):
        if wanted and here and wanted != here:
            raise pb_utils.TritonModelException(
                f"The {what} of {found.source!r} are not those that the scorers of this repository "
                f"were trained with: found {here}, expected {wanted}. Bring back the {what} of the "
                "export, or train and export a scorer for these."
            )


def _view(request: Any) -> torch.Tensor:
    tensor = pb_utils.get_input_tensor_by_name(request, "SEMANTIC_VIEW")
    return torch.from_dlpack(tensor.to_dlpack())


def _prompt(request: Any) -> Any:
    """The tensor PROMPT, or None."""
    return pb_utils.get_input_tensor_by_name(request, "PROMPT")
