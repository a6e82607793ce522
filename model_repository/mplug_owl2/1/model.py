"""Triton model `mplug_owl2`: views to the two prompt embeddings of the frozen LMM (Eq. 3).

With the text that an image was made from, it also says how well they agree: the vision pass serves
both. For the model `mplug_owl2_answer` it gives the next token of an answer. So the weights are in
memory once. Triton batches each of the three kinds of requests apart from the others.
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
TEXT, TOKENS = KINDS = ("PROMPT_TEXT", "PROMPT")
"""Inputs that ask for more than embeddings, or for something else."""


class TritonPythonModel:
    """SEMANTIC_VIEW uint8 (B, side, side, 3) -> SEMANTIC, COHERENCE float32 (B, hidden).

    With PROMPT_TEXT (B, 1) text: -> ALIGNMENT float32 (B, 1), too.
    With PROMPT int32 (1, T), for one image: -> NEXT_TOKEN int32 (1, 1) instead.
    """

    def initialize(self, args: dict[str, str]) -> None:
        given = json.loads(args["model_config"])["parameters"].items()
        parameters = {name: value["string_value"] for name, value in given}
        self._source = parameters["embedder"]
        self._method = parameters.get("alignment", "{}")
        self._answerer: Any = None
        self._aligner: Any = None
        self._language_head: Any = None
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
        """Answer requests of any kinds, those of one kind together."""
        kinds = [next((n for n in KINDS if _input(r, n) is not None), None) for r in requests]
        answers: dict[int, Any] = {}
        for kind, answer in ((None, self._embed), (TEXT, self._align), (TOKENS, self._continue)):
            places = [place for place, other in enumerate(kinds) if other == kind]
            if places:
                answered = answer([requests[place] for place in places])
                answers.update(zip(places, answered, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _embed(self, requests: list[Any]) -> list[Any]:
        return self._run(self._embed_to_cpu, [_view(request) for request in requests], OUTPUTS)

    def _embed_to_cpu(self, views: torch.Tensor) -> dict[str, torch.Tensor]:
        # 32 KB an image: between processes CUDA's own shared memory would save little.
        return {name: values.cpu() for name, values in self._embedder(views).items()}

    def _align(self, requests: list[Any]) -> list[Any]:
        """Embed images and compare them with their prompts; a bad prompt fails its own request."""
        asked = [self._questions(request) for request in requests]
        good = [request for request, one in zip(requests, asked, strict=True) if type(one) is list]
        views = torch.cat([_view(request) for request in good]) if good else torch.empty(0)
        questions = [ids for one in asked if type(one) is list for ids in one]

        def run(places: torch.Tensor) -> dict[str, torch.Tensor]:
            made, tokens = self._embedder.with_tokens(views[places])
            made["alignment"] = self._aligner(tokens, [questions[place] for place in places])
            return {name: values.cpu() for name, values in made.items()}

        sizes = [len(one) for one in asked if type(one) is list]
        parts = torch.arange(len(questions)).split(sizes)
        outputs = OUTPUTS | {"ALIGNMENT": "alignment"}
        answers = iter(self._run(run, list(parts), outputs) if good else ())
        return [next(answers) if type(one) is list else one for one in asked]

    def _questions(self, request: Any) -> Any:
        """The questions about a request's prompts as lists of token ids, or a refusal."""
        from ma_agiqa.errors import QuestionError
        from ma_agiqa.lmm.alignment import Aligner, AlignmentMethod
        from ma_agiqa.lmm.tokenizer import Tokenizer

        def ask() -> Any:
            if self._aligner is None:
                tokenizer = Tokenizer.of_checkpoint(self._source)
                method = AlignmentMethod.from_json(self._method)
                self._aligner = Aligner(self._embedder.model, self._head(), tokenizer, method)
            try:
                texts = [bytes(one).decode() for one in _input(request, TEXT).as_numpy().ravel()]
            except UnicodeDecodeError as error:
                raise QuestionError("The prompt is not UTF-8. Send its text in UTF-8.") from error
            questions = []
            for place, text in enumerate(texts):
                try:
                    questions.append(self._aligner.ask(text))
                except QuestionError as error:
                    where = f" (PROMPT_TEXT[{place}])" if len(texts) > 1 else ""
                    raise QuestionError(f"{error}{where}") from error
            return questions

        return self._answered(ask, "The prompt could not be read; the server's log says why.")

    def _run(self, run: Any, parts: list[torch.Tensor], outputs: dict[str, str]) -> list[Any]:
        """Run requests together, and in parts where memory is short; make their responses."""
        try:
            made = run_in_parts(run, parts)
        except Exception as error:
            sentence = "The prompt embeddings could not be computed; the server's log says why."
            return self._replies.failures(len(parts), error, sentence)
        if None in made:
            pb_utils.Logger.log_error("mplug_owl2 has too little memory for one image")
        return [self._response(each, outputs) for each in made]

    def _response(self, made: dict[str, torch.Tensor] | None, outputs: dict[str, str]) -> Any:
        """The outputs of one request, or a refusal if there was too little memory for them."""
        if made is None:
            return self._replies.refusal(
                "The server has too little memory for this image now. Send it again later.",
                "UNAVAILABLE",
            )
        return self._replies.tensors({n: made[own].contiguous() for n, own in outputs.items()})

    def _continue(self, requests: list[Any]) -> list[Any]:
        return [self._next_token(request) for request in requests]

    def _next_token(self, request: Any) -> Any:
        from ma_agiqa.errors import QuestionError
        from ma_agiqa.lmm.answers import Answerer

        def continue_answer() -> Any:
            if self._answerer is None:
                self._answerer = Answerer(self._embedder, self._head())
            views, ids = _view(request), _input(request, TOKENS).as_numpy()[0].tolist()
            if len(views) != 1:
                raise QuestionError(f"PROMPT came with {len(views)} images; send one.")
            token = self._answerer.next_token(views[0], ids)
            return self._replies.tensors({"NEXT_TOKEN": torch.tensor([[token]], dtype=torch.int32)})

        sentence = "The next token could not be computed; the server's log says why."
        return self._answered(continue_answer, sentence)

    def _head(self) -> torch.Tensor:
        """The language head, which is read at the first question or prompt."""
        # Here, so that scores do not depend on what only answers need.
        from ma_agiqa.lmm.answers import language_head

        if self._language_head is None:
            self._language_head = language_head(self._source, self._embedder.model)
        return self._language_head

    def _answered(self, answer: Any, sentence: str) -> Any:
        """What `answer` returns, or a refusal; `sentence` is for failures of other kinds."""
        from ma_agiqa.errors import CannotAnswerError, QuestionError

        try:
            return answer()
        except QuestionError as error:
            return self._replies.refusal(error, "INVALID_ARG")
        except CannotAnswerError as error:
            pb_utils.Logger.log_error(f"mplug_owl2 cannot answer: {error.__cause__ or error!r}")
            return self._replies.refusal(error, "UNSUPPORTED")
        except Exception as error:
            return self._replies.failure(error, sentence)


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


def _input(request: Any, name: str) -> Any:
    """The tensor of this name, or None."""
    return pb_utils.get_input_tensor_by_name(request, name)
