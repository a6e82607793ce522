"""A restricted unpickler: reads pickles that hold plain values, and nothing else.

A pickle is a program, and Python's own unpickler can be told to import and call anything. This one
cannot: it knows the instructions that make lists, tuples, dictionaries, strings, bytes, numbers,
booleans and None, and has none that looks up a name or calls something. Every other instruction is
refused when it is met. Memory and time grow with the size of the data alone: references are not
unfolded, keys are strings, and there is no table to be made large.
"""

import pickletools
from typing import Any

__all__ = ["PlainPickleError", "read_plain_pickle"]

_MAX_INSTRUCTIONS = 1_000_000

_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PlainPickleError(ValueError):
    """The data is no pickle of plain values."""


def read_plain_pickle(data: bytes) -> Any:
    """Read a pickle of protocol 3 or later, as `pickle.dumps` writes it.

    Returns:
        Lists, tuples and dictionaries with strings as keys, of strings, bytes, numbers, booleans
        and None.

    Raises:
        PlainPickleError: it holds anything else, is damaged, or has over a million instructions.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == _MAX_INSTRUCTIONS:
                raise PlainPickleError(
                    f"The pickle has over {_MAX_INSTRUCTIONS:,} instructions. Send fewer images."
                )
            machine.step(opcode.name, argument)
        return machine.result()
    except PlainPickleError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise PlainPickleError(f"The pickle is damaged ({error}). Send it again.") from error


class _Machine:
    """The stack, the places that MARK remembers, and the values that are referred to again."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in _NUMBERS or name in _STRINGS:
            self._stack.append(argument)
        elif name in _BYTES:
            self._stack.append(bytes(argument))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop(_TUPLES[name])))
        elif not (self._build(name) or self._refer(name, argument)):
            raise PlainPickleError(
                f"The pickle has the instruction {name}, which can make more than plain values. "
                "Send dictionaries, lists, strings, bytes and numbers of Python only "
                "(array.tolist() for arrays of NumPy), or JSON."
            )

    def result(self) -> Any:
        """The one value that is left at the end."""
        (value,) = self._stack
        return value

    def _build(self, name: str) -> bool:
        match name:
            case "EMPTY_LIST":
                self._stack.append([])
            case "EMPTY_DICT":
                self._stack.append({})
            case "EMPTY_TUPLE":
                self._stack.append(())
            case "MARK":
                self._marks.append(len(self._stack))
            case "TUPLE":
                self._stack.append(tuple(self._pop_to_mark()))
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                self._update(self._pop(2))
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case _:
                return False
        return True

    def _refer(self, name: str, argument: Any) -> bool:
        match name:
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                return False
        return True

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise LookupError("a value is missing")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        place = self._marks.pop()
        items = self._stack[place:]
        del self._stack[place:]
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError("items for something that is no list")
        target.extend(items)

    def _update(self, items: list[Any]) -> None:
        target, keys = self._stack[-1], items[::2]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for something that is no dictionary")
        if not all(isinstance(key, str) for key in keys):
            raise PlainPickleError("The pickle has a dictionary with a key that is no string.")
        target.update(zip(keys, items[1::2], strict=True))
