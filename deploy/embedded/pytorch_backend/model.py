"""Python-based Triton backend that answers to `platform: "pytorch_libtorch"`.

The embedded server has no libtorch backend; this one serves the same TorchScript file from the
same configuration, by the same rules (`naming.py`), so that a repository that loads here loads in
the production container. The parameters INTRA_OP_THREAD_COUNT, INTER_OP_THREAD_COUNT,
DISABLE_OPTIMIZED_EXECUTION, INFERENCE_MODE, ENABLE_JIT_PROFILING, ENABLE_JIT_EXECUTOR and
ENABLE_TENSOR_FUSER mean what they mean there; its other parameters are ignored.

Differs from the libtorch backend: an output index that does not exist is refused when the model is
loaded, not at each request; the shape of each output is checked against the configuration; an error
of the model reaches the caller without its details, which go to the log; a request that is late or
given up is answered with CANCELLED instead of being computed; string tensors, a dictionary of
inputs, ragged batches and sequence batching are refused.
"""

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

import naming  # next to this file, whose folder Triton does not put on the path

from ma_agiqa.serving.replies import Replies

_SWITCHES = {
    "ENABLE_JIT_PROFILING": torch._C._jit_set_profiling_mode,
    "ENABLE_JIT_EXECUTOR": torch._C._jit_set_profiling_executor,
    "ENABLE_TENSOR_FUSER": torch._C._jit_set_texpr_fuser_enabled,
}
_THREADS = (
    ("INTER_OP_THREAD_COUNT", torch.set_num_interop_threads, torch.get_num_interop_threads),
    ("INTRA_OP_THREAD_COUNT", torch.set_num_threads, torch.get_num_threads),
)
_BOOLEANS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


class ModelOutputError(RuntimeError):
    """The model returned something else than its configuration promises."""


class Output:
    """One configured output: its place in the result, and the type and shape that it must have."""

    def __init__(self, config: dict, position: int, batched: bool):
        self.name = config["name"]
        self.position = position
        self.dtype = getattr(torch, naming.TORCH_TYPES[config["data_type"]])
        dims = config.get("reshape", {}).get("shape", config["dims"])
        self.shape = ([-1] if batched else []) + [int(size) for size in dims]

    def check(self, tensor: torch.Tensor, batch_size: int | None) -> torch.Tensor:
        """Return `tensor` on the CPU, contiguous; raise `ModelOutputError` if it does not fit."""
        expected = list(self.shape)
        if batch_size is not None:
            expected[0] = batch_size
        if tensor.dtype != self.dtype:
            raise ModelOutputError(
                f"configuration expects datatype {self.dtype} for output '{self.name}', "
                f"model provides {tensor.dtype}"
            )
        shape = list(tensor.shape)
        fits = len(shape) == len(expected) and all(
            size in (-1, actual) for size, actual in zip(expected, shape, strict=True)
        )
        if not fits or not shape:
            raise ModelOutputError(
                f"configuration expects shape {expected} for output '{self.name}', "
                f"model provides {shape}"
            )
        # Responses leave by shared memory, and waiting for a GPU is part of this copy.
        return tensor.cpu().contiguous()


class TritonPythonModel:
    """The class Triton's python backend looks for: one instance of one TorchScript model."""

    def initialize(self, args: dict) -> None:
        """Load the model and check it against its configuration.

        Raises:
            pb_utils.TritonModelException: the file is missing or not TorchScript, or the
                configuration breaks a rule of the libtorch backend.
        """
        self._name = args["model_name"]
        self._replies = Replies(pb_utils, self._name)
        self._config = json.loads(args["model_config"])
        self._batched = self._config["max_batch_size"] > 0
        self._device = _device(args["model_instance_kind"], args["model_instance_device_id"])
        try:
            self._refuse_unsupported()
            self._apply_parameters()
            self._model = self._load(Path(args["model_repository"]) / args["model_version"])
            self._match_names()
        except naming.NamingError as error:
            raise pb_utils.TritonModelException(
                f"unable to load model '{self._name}': {error}"
            ) from error

    def execute(self, requests: list) -> list:
        """Answer every request; they are run as one batch where the model is batched."""
        return self._replies.in_time(requests, self._answer_wanted)

    def _answer_wanted(self, requests: list) -> list:
        groups = [requests] if self._batched else [[request] for request in requests]
        return [response for group in groups for response in self._answer(group)]

    def _answer(self, requests: list) -> list:
        try:
            return self._run(requests)
        except ModelOutputError as error:
            details = str(error)
            message = f"Model '{self._name}' does not fit its configuration: {error}."
        except Exception:
            details = traceback.format_exc()
            message = f"Model '{self._name}' failed on this batch. The server's log says why."
        return self._replies.failures(len(requests), details, message)

    def _run(self, requests: list) -> list:
        with self._no_gradients(), torch.jit.optimized_execution(self._optimized):
            inputs = [
                [self._tensor(request, name) for request in requests] for name in self._inputs
            ]
            sizes = [len(tensor) for tensor in inputs[0]] if self._batched else None
            results = self._model(
                *(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in inputs)
            )
            results = results if isinstance(results, tuple) else (results,)
            outputs = [
                (output.name, output.check(results[output.position], sum(sizes) if sizes else None))
                for output in self._outputs
            ]
            parts = {name: tensor.split(sizes) if sizes else [tensor] for name, tensor in outputs}
        return [self._response(request, parts, i) for i, request in enumerate(requests)]

    def _tensor(self, request, name: str) -> torch.Tensor:
        """The input on the model's device: shared memory is used in place, a GPU tensor moves."""
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        received = torch.from_dlpack(tensor.to_dlpack())
        device = self._device or torch.device("cpu")
        return received if tensor.is_cpu() and device.type == "cpu" else received.to(device)

    def _response(self, request, parts: dict, position: int):
        wanted = set(request.requested_output_names())
        return self._replies.tensors(
            {name: tensors[position] for name, tensors in parts.items() if name in wanted}
        )

    def _refuse_unsupported(self) -> None:
        for key in ("sequence_batching", "batch_input", "batch_output"):
            if self._config.get(key):
                raise naming.NamingError(f"the embedded server does not support {key}; remove it")
        for kind in ("input", "output"):
            pairs = [(tensor["name"], tensor["data_type"]) for tensor in self._config[kind]]
            naming.check_data_types(kind, pairs)

    def _apply_parameters(self) -> None:
        self._optimized = not self._switch("DISABLE_OPTIMIZED_EXECUTION", default=False)
        inference_mode = self._switch("INFERENCE_MODE", default=True)
        self._no_gradients = torch.inference_mode if inference_mode else torch.no_grad
        for name, setter in _SWITCHES.items():
            if name in self._config["parameters"]:
                setter(self._switch(name, default=False))
        for name, setter, getter in _THREADS:
            threads = self._integer(name)
            if threads > 0:  # the libtorch backend takes 0 and less as "not set"
                setter(threads)
                pb_utils.Logger.log_info(f"model '{self._name}': {name} is {getter()}")

    def _switch(self, name: str, default: bool) -> bool:
        value = self._config["parameters"].get(name, {}).get("string_value")
        if value is None:
            return default
        if value.lower() not in _BOOLEANS:
            raise naming.NamingError(f"failed to convert '{value}' of {name} to boolean")
        return _BOOLEANS[value.lower()]

    def _integer(self, name: str) -> int:
        value = self._config["parameters"].get(name, {}).get("string_value", "-1")
        try:
            return int(value)
        except ValueError as error:
            raise naming.NamingError(f"failed to convert '{value}' of {name} to integer") from error

    def _load(self, version_folder: Path) -> torch.jit.ScriptModule:
        file = version_folder / (self._config.get("default_model_filename") or "model.pt")
        if not file.is_file():
            raise naming.NamingError(
                f"no file {file.name} in version {version_folder.name}; "
                "run `python export/to_triton.py`"
            )
        with self._no_gradients(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
            try:
                return torch.jit.load(file, map_location=self._device)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                raise naming.NamingError(f"{file.name} is not TorchScript: {reason}") from error

    def _match_names(self) -> None:
        forward: Any = self._model.forward  # a method of TorchScript
        schema = forward.schema
        arguments = [a for a in schema.arguments if a.name != "self"]
        for argument in arguments:
            if argument.type.kind() != "TensorType":
                raise naming.NamingError(
                    f"argument '{argument.name}' of forward is of type {argument.type}, "
                    "expected Tensor"
                )
        names = [tensor["name"] for tensor in self._config["input"]]
        positions = naming.input_positions(names, [a.name for a in arguments])
        self._inputs = [names[positions.index(i)] for i in range(len(names))]
        configs = self._config["output"]
        outputs = naming.output_positions(
            [tensor["name"] for tensor in configs], _result_count(schema.returns[0].type)
        )
        self._outputs = [
            Output(config, position, self._batched)
            for config, position in zip(configs, outputs, strict=True)
        ]


def _result_count(result_type) -> int:
    """Number of tensors in a result: libtorch takes a Tensor or a tuple of Tensors."""
    parts = result_type.elements() if result_type.kind() == "TupleType" else [result_type]
    if any(part.kind() != "TensorType" for part in parts):
        raise naming.NamingError(
            f"forward returns {result_type}, expected a Tensor or a tuple of Tensors, "
            "not a list or a dictionary"
        )
    return len(parts)


def _device(kind: str, device_id: str) -> torch.device | None:
    """Device of an instance; None for KIND_MODEL, where the file says it."""
    if kind == "MODEL":
        return None
    return torch.device("cuda", int(device_id)) if kind == "GPU" else torch.device("cpu")
