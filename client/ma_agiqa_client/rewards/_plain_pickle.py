"""A reader for pickles from the network: plain values only.

A pickle is a program, and can ask Python to import and call anything. This reader knows only the
instructions that make plain values, and finds no classes. It counts what it reads, and hashes
nothing but strings: hashing nested tuples with references to themselves can take exponential time.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

_MAX_READS = 1_000_000

_PLAIN = frozenset(
    (
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
        *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"),
        *("MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
        *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("PROTO", "FRAME", "STOP"),
    )
)
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_READERS: dict[int, Any] = {**pickle._Unpickler.dispatch}


class PlainPickleError(Exception):
    """The data is not a pickle of plain values."""


def read_plain_pickle(data: bytes | memoryview) -> Any:
    """Read a pickle of protocol 3 or later, as `pickle.dumps` writes it.

    Returns:
        Lists, tuples and dictionaries with strings as keys, of strings, bytes, numbers, booleans
        and None.

    Raises:
        PlainPickleError: it has other values, is damaged, or takes over a million reads.
    """
    try:
        return _PlainUnpickler(_CountedBytes(data)).load()
    except PlainPickleError:
        raise
    except Exception as error:  # damaged pickles raise exceptions of a dozen types
        raise PlainPickleError(f"The pickle is damaged ({error!r}). Send it again.") from error


class _CountedBytes(io.BufferedIOBase):
    """Bytes that can be read a million times, and never fewer at a time than asked for."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise PlainPickleError(
                f"The pickle takes over {_MAX_READS:,} reads. Send fewer images at once."
            )
        end = self._at + (size or 0)
        if not self._at <= end <= len(self._data):
            raise EOFError("it ends too early")
        data = bytes(self._data[self._at : end])
        self._at = end
        return data


class _Dispatch(dict[int, Any]):
    def __missing__(self, code: int) -> NoReturn:
        raise PlainPickleError(
            f"The pickle has the instruction {_NAMES.get(code, code)}, which can make more than "
            "plain values. Send only dictionaries, lists, strings, bytes and numbers of Python "
            "(images as the bytes of their files), or JSON."
        )


class _PlainUnpickler(pickle._Unpickler):
    """Python's reader in Python: the one in C makes tables as large as a pickle tells it to."""

    dispatch = _Dispatch({code: read for code, read in _READERS.items() if _NAMES[code] in _PLAIN})
    read: Callable[[int], bytes]
    stack: list[Any]

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function."""
        raise PlainPickleError(f"The pickle refers to {module}.{name}.")

    def load_frame(self) -> None:
        self.read(8)  # its length is of no use: everything is in memory

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        _READERS[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        _READERS[pickle.SETITEMS[0]](self)

    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def _check_keys(keys: list[Any]) -> None:
    if not all(type(key) is str for key in keys):
        raise PlainPickleError(
            "The pickle has a dictionary with a key that is not a string. Use strings as keys."
        )
