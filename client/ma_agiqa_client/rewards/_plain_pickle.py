"""A reader for pickles from the network: plain values only.

A pickle is a program, and can ask Python to import and call anything. Two barriers prevent this.
Before anything is read, every instruction is checked against the list of those that make plain
values, without carrying it out. The unpickler itself finds no classes.

The check also limits the cost. Instructions are counted. A reference number is at most the count of
instructions, because Python makes a table of that size. Keys are strings, because hashing nested
tuples with references to themselves can take exponential time.
"""

import io
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any, NoReturn

_MAX_INSTRUCTIONS = 1_000_000

_PLAIN = frozenset(
    (
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"),
        *("MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
        *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("PROTO", "FRAME", "STOP"),
    )
)


class PlainPickleError(Exception):
    """The data is not a pickle of plain values."""


def read_plain_pickle(data: bytes) -> Any:
    """Read a pickle of protocol 3 or later, as `pickle.dumps` writes it.

    Returns:
        Lists, tuples and dictionaries with strings as keys, of strings, bytes, numbers, booleans
        and None.

    Raises:
        PlainPickleError: it has other values, is damaged, or has over a million instructions.
    """
    try:
        _check(data)
        return _Unpickler(io.BytesIO(data)).load()
    except PlainPickleError:
        raise
    except Exception as error:  # damaged pickles raise exceptions of a dozen types
        raise PlainPickleError(f"The pickle is damaged ({error}). Send it again.") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function."""
        raise PlainPickleError(f"The pickle refers to {module}.{name}.")


def _check(data: bytes) -> None:
    """Follow the instructions with the types of the values instead of the values themselves."""
    stack: list[pickletools.StackObject] = []
    memo: dict[int, pickletools.StackObject] = {}
    instructions: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]
    instructions = pickletools.genops(data)
    for count, (opcode, argument, _) in enumerate(instructions):
        if count == _MAX_INSTRUCTIONS:
            raise PlainPickleError(
                f"The pickle has over {_MAX_INSTRUCTIONS:,} instructions. Send fewer images."
            )
        if opcode.name not in _PLAIN:
            raise PlainPickleError(
                f"The pickle has the instruction {opcode.name}, which can make more than plain "
                "values. Send only dictionaries, lists, strings, bytes and numbers of Python "
                "(array.tolist() for NumPy arrays), or JSON."
            )
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode.name.endswith("PUT"):
            if argument > count:
                raise ValueError(f"reference number {argument} after {count} instructions")
            memo[argument] = stack[-1]
        elif opcode.name.endswith("GET"):
            stack.append(memo[argument])
        else:
            _apply(stack, opcode)


def _apply(stack: list[pickletools.StackObject], opcode: pickletools.OpcodeInfo) -> None:
    """Change the types on the stack as an instruction changes the values; check keys."""
    before, mark = opcode.stack_before, pickletools.markobject
    if mark in before:
        items = []
        while (item := stack.pop()) is not mark:
            items.append(item)
        if opcode.name == "SETITEMS":
            _check_keys(items[::-1][::2])
        stack += opcode.stack_after[before.index(mark) :]
    else:
        if opcode.name == "SETITEM":
            _check_keys(stack[-2:-1])
        del stack[len(stack) - len(before) :]
        stack += opcode.stack_after


def _check_keys(keys: list[pickletools.StackObject]) -> None:
    if any(key is not pickletools.pyunicode for key in keys):
        raise PlainPickleError(
            "The pickle has a dictionary with a key that is not a string. Use strings as keys."
        )
