"""A tokenizer file like LLaMA-2's, made on the spot: pieces of its kind, most of them invented."""

import struct
from pathlib import Path

SIZE = 32_000
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
ASSISTANT = {29871: SPACE, 319: f"{SPACE}A", 1799: "SS", 9047: "IST", 13566: "ANT", 29901: ":"}
"""Pieces of " ASSISTANT:" by their ids in LLaMA-2."""
YES, NO = 3869, 1939
"""The words "Yes" and "No" in LLaMA-2."""

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # SentencePiece's types of pieces


def write_tokenizer(folder: Path, like_llama: bool = True) -> Path:
    """Write `tokenizer.model` with 32,000 pieces, in which every text can be written.

    Args:
        folder: where to.
        like_llama: whether it writes " ASSISTANT:" as LLaMA-2's does.
    """
    pieces = [("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL)]
    pieces += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    pieces += [(f"{SPACE}w{id_}", _NORMAL) for id_ in range(len(pieces), SIZE)]
    words = {YES: f"{SPACE}Yes", NO: f"{SPACE}No"}
    for id_, piece in {**words, **(ASSISTANT if like_llama else {})}.items():
        pieces[id_] = (piece, _NORMAL)
    # Fields 3, 4 and 35 of the trainer's description: unigram, vocabulary size, byte fallback.
    trainer = b"\x18\x01" + b"\x20" + _varint(SIZE) + b"\x98\x02\x01"
    normalizer = _field(1, b"identity") + b"\x20\x00"  # field 4: extra white space is kept
    model = b"".join(_field(1, _piece(text, kind)) for text, kind in pieces)
    file = folder / "tokenizer.model"
    file.write_bytes(model + _field(2, trainer) + _field(3, normalizer))
    return file


def _piece(text: str, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", -1.0) + b"\x18" + _varint(kind)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
