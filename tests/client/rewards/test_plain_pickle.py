"""What the reader of pickles admits, and that nothing else gets in."""

import copyreg
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa_client.rewards._plain_pickle import PlainPickleError, read_plain_pickle

SHARED = ["a prompt", b"\xff\xd8 image"]
PLAIN = [
    {"images": [b"\xff\xd8" * 300, b""], "prompts": ["a cat", "ü \U0001f600"], "metadata": {}},
    {"images": (b"1", b"2", b"3", b"4"), "only_strict": True, "meta_datas": [{"tag": "color"}] * 3},
    [0, 1, 255, 256, -1, 2**31, -(2**40), 10**30, 1.5, float("inf"), None, True, False, ()],
    {"nested": {"one": [[[{"two": ((1,), (1, 2), (1, 2, 3))}]]]}, "same": [SHARED, SHARED]},
    "x" * 70_000,
    b"x" * 70_000,
    list(range(5000)),
]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("value", PLAIN)
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    read = read_plain_pickle(pickle.dumps(value, protocol))
    assert read == value
    assert type(read) is type(value)


def test_bytearrays_become_bytes():
    assert read_plain_pickle(pickle.dumps([bytearray(b"ab")], 5)) == [b"ab"]


class Runs:
    """The classic: a class whose pickle says what to call."""

    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


def persistent() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "an id" if isinstance(value, bytes) else None

    buffer = io.BytesIO()
    Pickler(buffer, 4).dump([b"x"])
    return buffer.getvalue()


def attacks(target: str) -> dict[str, bytes]:
    """Programs that would make the folder `target`, or load code, in Python's own machine."""
    name = target.encode()
    made = b"V" + name + b"\n"
    return {
        "REDUCE, protocol 0": b"cos\nmkdir\n(" + made + b"tR.",
        "REDUCE, protocol 2": b"\x80\x02cos\nmkdir\n(" + made + b"tR.",
        "REDUCE, protocol 5": pickle.dumps(Runs(os.mkdir, target), 5),
        "REDUCE beside images": pickle.dumps({"images": [b"x"], "m": Runs(os.mkdir, target)}, 4),
        "REDUCE in place of an image": pickle.dumps({"images": [Runs(os.mkdir, target)]}, 4),
        "STACK_GLOBAL alone": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "STACK_GLOBAL of a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x0eint.__class__.x\x93.",
        "INST": b"\x80\x03(" + made + b"ios\nmkdir\n.",
        "OBJ": b"\x80\x03(cos\nmkdir\n" + made + b"o.",
        "NEWOBJ": b"\x80\x04cos\nmkdir\n" + made + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nmkdir\n" + made + b"\x85}\x92.",
        "eval": pickle.dumps(Runs(eval, f"__import__('os').mkdir({target!r})"), 4),
        "an instance": b"\x80\x04\x8c\x05tests\x8c\x05Plain\x93)\x81}\x8c\x05valueK\x01sb.",
        "BUILD on a dictionary": b"\x80\x04}}\x8c\x01aK\x01sb.",
        "EXT1": b"\x80\x02\x82\xf0.",
        "EXT2": b"\x80\x02\x83\xf0\x00.",
        "EXT4": b"\x80\x02\x84\xf0\x00\x00\x00.",
        "PERSID": b"\x80\x03Pan id\n.",
        "BINPERSID": persistent(),
        "NumPy array": pickle.dumps({"images": np.zeros(3)}, 4),
        "NumPy number": pickle.dumps({"images": [np.float32(1)]}, 4),
        "tensor": pickle.dumps({"images": torch.zeros(2)}, 4),
        "Pillow image": pickle.dumps({"images": [Image.new("RGB", (2, 2))]}, 4),
        "set": pickle.dumps({"a"}, 4),
        "frozenset": pickle.dumps(frozenset("a"), 4),
        "buffer": pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=lambda _: None),
        "very long number": pickle.dumps(1 << 3000, 4),
    }


@pytest.mark.parametrize("attack", attacks("target"))
def test_anything_that_names_or_calls_something_is_refused(attack, tmp_path):
    target = tmp_path / "made"
    copyreg.add_extension("os", "mkdir", 0xF0)
    try:
        with pytest.raises(PlainPickleError, match=r"more than plain values|damaged"):
            read_plain_pickle(attacks(str(target))[attack])
    finally:
        copyreg.remove_extension("os", "mkdir", 0xF0)
    assert not target.exists()


@pytest.mark.parametrize(
    "attack", ["REDUCE, protocol 0", "REDUCE, protocol 2", "REDUCE, protocol 5", "INST", "eval"]
)
def test_the_attacks_are_real(attack, tmp_path):
    """Python's own machine would carry them out."""
    pickle.loads(attacks(str(tmp_path / "made"))[attack])
    assert (tmp_path / "made").is_dir()


def test_a_large_reference_number_takes_no_memory():
    """CPython's reader makes a table of twice that many places: 64 GiB."""
    data = b"\x80\x03" + b"]r" + struct.pack("<I", 2**32 - 1) + b"."
    assert read_plain_pickle(data) == []


def test_keys_that_take_exponential_time_to_hash_are_refused():
    """Each tuple holds the one before twice; to hash the last takes 2 ** 60 steps."""
    data = b"\x80\x04})\x94" + b"".join(b"h%c\x86\x94" % number for number in range(60)) + b"Ns."
    with pytest.raises(PlainPickleError, match="key that is no string"):
        read_plain_pickle(data)


def test_keys_are_strings():
    with pytest.raises(PlainPickleError, match="key that is no string"):
        read_plain_pickle(pickle.dumps({1: 2}, 4))


def test_a_cycle_is_read_without_end():
    cycle = []
    cycle.append(cycle)
    read = read_plain_pickle(pickle.dumps(cycle, 4))
    assert read[0] is read


def test_too_many_instructions():
    with pytest.raises(PlainPickleError, match="1,000,000 instructions"):
        read_plain_pickle(b"\x80\x04(" + b"N" * 1_000_001 + b"t.")


WHOLE = pickle.dumps({"images": [b"abc"], "prompts": ["a"]}, 4)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_every_truncation_is_damage(length):
    with pytest.raises(PlainPickleError):
        read_plain_pickle(WHOLE[:length])


@pytest.mark.parametrize("place", range(len(WHOLE)))
def test_every_other_byte_gives_a_value_or_the_one_error(place):
    """All 255 other bytes, at each place: no exception but `PlainPickleError` comes out."""
    refused = 0
    for byte in range(256):
        try:
            read_plain_pickle(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
        except PlainPickleError:
            refused += 1
    assert refused < 256  # the byte itself is right


@pytest.mark.parametrize(
    "data", [b"\x80\x04.", b"\x80\x04NN.", b"\x80\x04t.", b"\x80\x04h\x05.", b"\x80\x04Na.", b""]
)
def test_programs_that_lack_a_value(data):
    with pytest.raises(PlainPickleError):
        read_plain_pickle(data)


def test_lengths_that_lie_take_no_memory():
    for opcode in (b"\x8e", b"\x96", b"\x8d"):  # BINBYTES8, BYTEARRAY8, BINUNICODE8
        with pytest.raises(PlainPickleError):
            read_plain_pickle(b"\x80\x05" + opcode + struct.pack("<Q", 2**62) + b"x.")
