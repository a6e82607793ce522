"""Triton model `mplug_owl2_answer`: an image and a question to the LMM's answer, as it is written.

It holds no weights. Every token comes from the model `mplug_owl2`, by an ordinary request, so the
16.4 GB of the paper's LMM are in memory once. The reasons:

- Triton's python backend gives each instance of each model a process of its own. Two models cannot
  share one, and two copies of the weights would take 33 GB.
- One model cannot do both: streaming makes a model decoupled, and an ensemble with a decoupled
  step refuses ordinary requests (2.51: UNIMPLEMENTED, "ModelInfer RPC doesn't support models with
  decoupled transaction policy").

So scores and tokens take turns in `mplug_owl2`, and no score waits for a whole answer. Measured
with a tiny LMM on two CPU cores: the detour costs 2.5 ms a token (7.0 against 4.5 ms in one
process), and an instance of this model takes 75 MB. By arithmetic, a token of the paper's LMM takes
at least 5 ms on an H100, which reads 16.4 GB at 3.35 TB/s.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ma_agiqa.errors import CannotAnswerError, ImageError, QuestionError
from ma_agiqa.images.preparation import Order, Preparation
from ma_agiqa.lmm.tokenizer import MAX_ANSWER_TOKENS, AnswerText, Tokenizer
from ma_agiqa.serving import deadlines
from ma_agiqa.serving.replies import Replies


class TritonPythonModel:
    """IMAGE (1,) bytes, QUESTION (1,) text -> TEXT (1,), the answer's next piece, many times.

    The request parameter `max_tokens` limits the length of the answer.
    """

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._preparation = Preparation(int(parameters["view_size"]["string_value"]), cores=1)
        self._replies = Replies(pb_utils, "mplug_owl2_answer")
        self._tokenizer: Tokenizer | None = None
        try:
            self._tokenizer = Tokenizer.of_checkpoint(parameters["embedder"]["string_value"])
        except CannotAnswerError as error:
            self._reason = error
            pb_utils.Logger.log_warn(f"mplug_owl2_answer will refuse every question: {error}")

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            error = self._answer(request, sender)
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            if error is None:
                sender.send(flags=final)
            else:
                sender.send(error, flags=final)

    def finalize(self) -> None:
        self._preparation.close()

    def _answer(self, request: Any, sender: Any) -> Any:
        """Send the answer; return the response that ends it with an error, if there is one.

        A stream carries no status, only the sentence, so the sentence begins with the status.
        """
        try:
            return self._stream(request, sender)
        except (ImageError, QuestionError) as error:
            return self._replies.refusal(f"INVALID_ARGUMENT: {error}", "INTERNAL")
        except CannotAnswerError as error:
            return self._replies.refusal(f"UNIMPLEMENTED: {error}", "INTERNAL")
        except Exception as error:
            sentence = "INTERNAL: The answer could not be made; the server's log says why."
            return self._replies.failure(error, sentence)

    def _stream(self, request: Any, sender: Any) -> Any:
        late = deadlines.refusal(request.parameters(), "mplug_owl2_answer")
        if late:
            return self._replies.refusal(late, "CANCELLED")
        if self._tokenizer is None:
            raise self._reason
        ids = self._tokenizer.prompt(_bytes(request, "QUESTION").decode(errors="replace"))
        view = self._preparation.submit(Order(_bytes(request, "IMAGE"))).result().semantic
        text = AnswerText(self._tokenizer)
        for count in range(_max_tokens(request)):
            if stopped := self._stop(request, count):
                return stopped
            step = _next_token(view, ids, request)
            if step.has_error():
                return pb_utils.InferenceResponse(error=step.error())
            ids.append(int(pb_utils.get_output_tensor_by_name(step, "NEXT_TOKEN").as_numpy()[0, 0]))
            if ids[-1] == self._tokenizer.end_id:
                break
            self._send(sender, text.add(ids[-1]))
        self._send(sender, text.rest())
        return None

    def _stop(self, request: Any, count: int) -> Any:
        """The error that ends an answer after `count` tokens, if the client no longer waits."""
        if request.is_cancelled():
            pb_utils.Logger.log_info(f"mplug_owl2_answer: given up by the client at token {count}")
            return self._replies.refusal("The answer was given up.", "CANCELLED")
        if deadlines.refusal(request.parameters(), "mplug_owl2_answer"):
            return self._replies.refusal(
                f"DEADLINE_EXCEEDED: the time was over after {count} tokens of the answer. "
                "Allow more time, or ask for fewer tokens.",
                "CANCELLED",
            )
        return None

    def _send(self, sender: Any, text: str) -> None:
        if text:
            piece = np.array([text.encode()], np.object_)
            sender.send(self._replies.tensors({"TEXT": piece}))


def _next_token(view: np.ndarray, ids: list[int], request: Any) -> Any:
    """Ask `mplug_owl2` for one token."""
    step = pb_utils.InferenceRequest(
        model_name="mplug_owl2",
        requested_output_names=["NEXT_TOKEN"],
        inputs=[
            pb_utils.Tensor("SEMANTIC_VIEW", view[None]),
            pb_utils.Tensor("PROMPT", np.array([ids], np.int32)),
        ],
        parameters=json.loads(request.parameters() or "{}"),
        request_id=request.request_id(),
    )
    return step.exec()


def _bytes(request: Any, name: str) -> bytes:
    return bytes(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0])


def _max_tokens(request: Any) -> int:
    wanted = json.loads(request.parameters() or "{}").get("max_tokens", MAX_ANSWER_TOKENS)
    if not isinstance(wanted, int) or not 1 <= wanted <= MAX_ANSWER_TOKENS:
        raise QuestionError(
            f"The question came with max_tokens = {wanted!r}; expected 1 to {MAX_ANSWER_TOKENS}. "
            "Ask for an answer of a length in that range."
        )
    return wanted
