"""What the reader of pickles admits, and that nothing else gets in."""

import copyreg
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from ma_agiqa_client.rewards._plain_pickle import PlainPickleError, read_plain_pickle

SHARED = ["a prompt", b"\xff\xd8 image", (512, 512)]
PLAIN = [
    {"images": [b"\xff\xd8" * 300, b""], "prompts": ["a cat", "ü \U0001f600"], "metadata": {}},
    {"images": (b"1", b"2", b"3", b"4"), "only_strict": True, "meta_datas": [{"tag": "color"}] * 3},
    [0, 1, 255, 256, -1, 2**31, -(2**40), 10**30, 1.5, float("inf"), None, True, False, ()],
    {"nested": {"one": [[[{"two": ((1,), (1, 2), (1, 2, 3))}]]]}, "same": [SHARED, SHARED]},
    {"a": 1},  # one item: SETITEM instead of SETITEMS
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


class Runs:
    """The classic: a class whose pickle says what to call."""

    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


def attacks(target: str) -> dict[str, bytes]:
    """Programs that would make the folder `target`, or load code, if Python read them."""
    name = target.encode()
    made = b"V" + name + b"\n"
    return {
        "REDUCE, protocol 0": b"cos\nmkdir\n(" + made + b"tR.",
        "REDUCE, protocol 2": b"\x80\x02cos\nmkdir\n(" + made + b"tR.",
        "REDUCE, protocol 5": pickle.dumps(Runs(os.mkdir, target), 5),
        "REDUCE next to images": pickle.dumps({"images": [b"x"], "m": Runs(os.mkdir, target)}, 4),
        "STACK_GLOBAL alone": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        "STACK_GLOBAL of a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x0eint.__class__.x\x93.",
        "INST": b"\x80\x03(" + made + b"ios\nmkdir\n.",
        "OBJ": b"\x80\x03(cos\nmkdir\n" + made + b"o.",
        "NEWOBJ": b"\x80\x04cos\nmkdir\n" + made + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nmkdir\n" + made + b"\x85}\x92.",
        "eval": pickle.dumps(Runs(eval, f"__import__('os').mkdir({target!r})"), 4),
        "BUILD on a dictionary": b"\x80\x04}}\x8c\x01aK\x01sb.",
        "EXT1": b"\x80\x02\x82\xf0.",
        "EXT4": b"\x80\x02\x84\xf0\x00\x00\x00.",
        "PERSID": b"\x80\x03Pan id\n.",
        "BINPERSID": b"\x80\x04\x8c\x05an idQ.",
        "NumPy array": pickle.dumps({"images": np.zeros(3)}, 4),
        "tensor": pickle.dumps({"images": torch.zeros(2)}, 4),
        "set": pickle.dumps({"a"}, 4),
        "frozenset": pickle.dumps(frozenset("a"), 4),
        "buffer": pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=lambda _: None),
        "very long number": pickle.dumps(1 << 3000, 4),
    }


@pytest.fixture
def extension():
    copyreg.add_extension("os", "mkdir", 0xF0)
    yield
    copyreg.remove_extension("os", "mkdir", 0xF0)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("attack", attacks("target"))
def test_anything_that_names_or_calls_something_is_refused(attack, tmp_path):
    target = tmp_path / "made"
    with pytest.raises(PlainPickleError, match=r"more than plain values|damaged"):
        read_plain_pickle(attacks(str(target))[attack])
    assert not target.exists()


@pytest.mark.parametrize(
    "attack", ["REDUCE, protocol 0", "REDUCE, protocol 2", "REDUCE, protocol 5", "INST", "eval"]
)
def test_the_attacks_are_real(attack, tmp_path):
    """Python's own reader would carry them out."""
    pickle.loads(attacks(str(tmp_path / "made"))[attack])
    assert (tmp_path / "made").is_dir()


def test_a_large_reference_number_takes_no_memory():
    """CPython's reader in C would make a table of twice that many places: 64 GiB."""
    assert read_plain_pickle(b"\x80\x03" + b"]r" + struct.pack("<I", 2**32 - 1) + b".") == []


@pytest.mark.parametrize("ending", [b"Ns.", b"(h\x3cNu."])
def test_keys_that_take_exponential_time_to_hash_are_refused(ending):
    """Each tuple contains the one before twice; to hash the last takes 2 ** 60 steps."""
    tuples = b"".join(b"h%c\x86\x94" % number for number in range(60))
    with pytest.raises(PlainPickleError, match="key that is not a string"):
        read_plain_pickle(b"\x80\x04})\x94" + tuples + ending)


@pytest.mark.parametrize("value", [{1: 2}, {"a": 1, (1,): 2}, [{b"a": 1}]])
def test_keys_are_strings(value):
    with pytest.raises(PlainPickleError, match="key that is not a string"):
        read_plain_pickle(pickle.dumps(value, 4))


def test_a_cycle_is_read_without_end():
    cycle = []
    cycle.append(cycle)
    read = read_plain_pickle(pickle.dumps(cycle, 4))
    assert read[0] is read


def test_nesting_costs_no_more_than_its_bytes():
    read = read_plain_pickle(b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b".")
    assert len(read) == 1


def test_too_many_instructions():
    with pytest.raises(PlainPickleError, match="1,000,000 reads"):
        read_plain_pickle(b"\x80\x04(" + b"N" * 1_000_001 + b"t.")


WHOLE = pickle.dumps({"images": [b"abc"], "prompts": ["a"]}, 4)


def test_every_truncation_is_damage():
    for length in range(len(WHOLE)):
        with pytest.raises(PlainPickleError):
            read_plain_pickle(WHOLE[:length])


def test_every_other_byte_gives_a_value_or_the_one_error():
    """All 255 other bytes, at each place: no exception but `PlainPickleError` comes out."""
    for place in range(len(WHOLE)):
        refused = 0
        for byte in range(256):
            try:
                read_plain_pickle(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
            except PlainPickleError:
                refused += 1
        assert refused < 256  # the byte itself is right


@pytest.mark.parametrize(
    "data", [b"\x80\x04.", b"\x80\x04t.", b"\x80\x04h\x05.", b"\x80\x04Na.", b"\x80\x04]Ns.", b""]
)
def test_programs_that_lack_a_value(data):
    with pytest.raises(PlainPickleError):
        read_plain_pickle(data)


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96", b"\x8d"])  # bytes, bytearray, text
def test_lengths_that_lie_take_no_memory(opcode):
    with pytest.raises(PlainPickleError):
        read_plain_pickle(b"\x80\x05" + opcode + struct.pack("<Q", 2**62) + b"x.")
