"""The naming rules of Triton's libtorch backend, without Triton and without torch.

TorchScript knows positions, a Triton configuration knows names. The libtorch backend matches them:

    inputs   1. every name is an argument of `forward`      -> that argument
             2. every name is NAME__i                       -> argument i
             3. otherwise                                   -> the order of the configuration
    outputs  1. every name is NAME__i                       -> element i of the result
             2. otherwise                                   -> the order of the configuration

One name that breaks a rule moves *all* names to the next rule. The rules hold for the inputs and
for the outputs separately. Where the libtorch backend would read or write out of bounds, these
functions raise `NamingError` instead.
"""

from collections.abc import Sequence

TORCH_TYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_INT8": "int8",
    "TYPE_INT16": "int16",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
}
"""Tensor data types of the libtorch backend -> name of the torch dtype."""


class NamingError(ValueError):
    """A configuration that the libtorch backend would refuse, or misread."""


def named_index(name: str) -> int | None:
    """Index in a NAME__i name: the digits after the first "__", 0 if there are none after it.

    Returns None for a name of another form.
    """
    _, separator, digits = name.partition("__")
    if not separator or not all(character in "0123456789" for character in digits):
        return None
    return int(digits or 0)


def input_positions(names: Sequence[str], arguments: Sequence[str]) -> list[int]:
    """Position in `forward` of every configured input.

    Args:
        names: the inputs in the order of the configuration.
        arguments: the arguments of `forward` without `self`.

    Raises:
        NamingError: the numbers differ, or two inputs would share an argument.
    """
    if len(names) != len(arguments):
        raise NamingError(
            f"configuration expects {len(names)} inputs, model provides {len(arguments)}"
        )
    if all(name in arguments for name in names):
        positions = [arguments.index(name) for name in names]
    else:
        positions = _indices_or_order(names)
    if sorted(positions) != list(range(len(arguments))):
        raise NamingError(
            f"inputs {', '.join(names)} stand for the positions {positions}, "
            f"expected each of 0 to {len(arguments) - 1} once; correct the NAME__i indices"
        )
    return positions


def output_positions(names: Sequence[str], provided: int) -> list[int]:
    """Position in the result of `forward` of every configured output.

    Args:
        names: the outputs in the order of the configuration; there may be fewer than the model has.
        provided: tensors that `forward` returns.

    Raises:
        NamingError: there is no output, or one refers to a position that does not exist.
    """
    if not names:
        raise NamingError("configuration must contain at least one output, none were specified")
    positions = _indices_or_order(names)
    for name, position in zip(names, positions, strict=True):
        if position >= provided:
            raise NamingError(
                f"the output {name} in the model configuration refers to an output index which "
                f"doesn't exist: {position}; this model has {provided} outputs"
            )
    return positions


def check_data_types(kind: str, data_types: Sequence[tuple[str, str]]) -> None:
    """Refuse the data types that the libtorch backend has no tensor for.

    Args:
        kind: "input" or "output", for the message.
        data_types: (tensor name, "TYPE_...") pairs of the configuration.

    Raises:
        NamingError: a type such as TYPE_UINT16, TYPE_UINT32, TYPE_UINT64 or TYPE_BF16. TYPE_STRING
            too: libtorch maps it to List[str], which the embedded server does not offer.
    """
    for name, data_type in data_types:
        if data_type not in TORCH_TYPES:
            raise NamingError(
                f"unsupported datatype {data_type} for {kind} '{name}'; "
                f"use one of {', '.join(TORCH_TYPES)}"
            )


def _indices_or_order(names: Sequence[str]) -> list[int]:
    indices = [named_index(name) for name in names]
    if any(index is None for index in indices):
        return list(range(len(names)))
    return [index for index in indices if index is not None]
