"""JSON whose long strings are cut out before it is parsed reads as it does in one piece."""

import base64
import json
import random

import pytest

from ma_agiqa_client.rewards import _plain_json
from ma_agiqa_client.rewards._plain_json import PlainJsonError, read_plain_json

FILE = random.Random(0).randbytes(9_000)
TEXT = base64.b64encode(FILE).decode()


def plain(value):
    """Turn views into strings."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return str(value, "utf-8") if isinstance(value, memoryview) else value


def test_long_images_are_views_of_the_text():
    body = json.dumps({"images": [TEXT, "aGk=", f"data:image/png;base64,{TEXT}"]}).encode()
    first, second, third = read_plain_json(body, {"images": None})["images"]
    assert isinstance(first, memoryview)
    assert first.obj is body
    assert [first, second, bytes(third[-len(TEXT) :])] == [TEXT.encode(), "aGk=", TEXT.encode()]


@pytest.mark.parametrize(
    "value",
    [
        {"prompts": [TEXT, "a"], "images": []},
        {TEXT: 1, "b": {TEXT: {"images": [None, [TEXT]]}}},
        {"images": [TEXT.replace("+", "\\") + '"', f'"{TEXT}"', f'a "{TEXT}" b "']},
        {"images": ["\n".join(TEXT), TEXT + "ü", "ü" + TEXT]},
        TEXT,
        ["a" * 5_000, "a " * 5_000, " " * 5_000, 1, 2.5, True],
    ],
)
@pytest.mark.parametrize("ascii", [True, False])
def test_other_long_strings_are_strings(value, ascii):
    body = json.dumps(value, ensure_ascii=ascii).encode()
    assert plain(read_plain_json(body, {"images": None})) == value
    assert read_plain_json(body, {}) == value


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings(encoding):
    value = {"images": [TEXT, "\u4122" + "\u4141" * 5_000]}
    assert (
        plain(
            read_plain_json(
                json.dumps(value, ensure_ascii=False).encode(encoding), {"images": None}
            )
        )
        == value
    )


def test_any_text_reads_as_in_one_piece(monkeypatch):
    """Thousands of texts of the characters that matter, right and wrong, cut wherever possible."""
    monkeypatch.setattr(_plain_json, "_LONG", 3)
    monkeypatch.setattr(_plain_json, "_BLOCK", 7)
    rng = random.Random(1)
    right = 0
    for _ in range(20_000):
        pieces = rng.choices(
            ['"', '"abcde"', "abcdef", "\\", ",", ":", "[", "]", "{", "}", " "], k=9
        )
        text = "".join(rng.choice([["[", *pieces, "]"], pieces, ['{"a":', *pieces[:3], "}"]]))
        try:
            expected = json.loads(text)
        except ValueError:
            with pytest.raises(PlainJsonError, match="not JSON"):
                read_plain_json(text.encode(), {"a": None})
        else:
            right += 1
            assert plain(read_plain_json(text.encode(), {"a": None})) == expected
    assert right > 100


def test_values_are_counted_without_the_images():
    assert read_plain_json(b'{"images": ["' + b"A" * 3_000_000 + b'"]}', {})
    with pytest.raises(PlainJsonError, match="over 1,000,000 values"):
        read_plain_json(b'["' + b"A" * 5_000 + b'"' + b",0" * 1_000_000 + b"]", {})
