"""Requests and replies of the reward server, as bytes."""

import base64
import json
import pickle

import pytest

from ma_agiqa_client.rewards._messages import MalformedRequestError, is_pickle, read_images

TEXT = base64.b64encode(b"\xff\xd8\x00").decode()


@pytest.mark.parametrize("text", [TEXT, f"data:image/jpeg;base64,{TEXT}"])
def test_images_in_json(text):
    body = json.dumps({"images": [text, TEXT], "prompts": ["a", "b"], "metadata": {}}).encode()
    assert not is_pickle(body)
    assert read_images(body, max_bytes=2**20) == [b"\xff\xd8\x00"] * 2


@pytest.mark.parametrize("container", [list, tuple])
def test_images_in_a_pickle(container):
    body = pickle.dumps({"images": container([b"\xff\xd8\x00", b"2"]), "prompts": ["a", "b"]})
    assert is_pickle(body)
    assert read_images(body, max_bytes=2**20) == [b"\xff\xd8\x00", b"2"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "no images"),
        (b"null", "no images"),
        (b"{}", "no images"),
        (b'{"images": []}', "no images"),
        (b'{"images": "aGk="}', "no images"),
        (b'{"images": [1]}', "Image 0 is of type int"),
        (b'{"images": [null]}', "Image 0 is of type NoneType"),
        (b'{"images": ["aGk=", "/etc/passwd!"]}', "Image 1 is not base64"),
        (b'{"images": ["aGkAB"]}', "Image 0 is not base64"),
        ('{"images": ["ü"]}'.encode(), "Image 0 is not base64"),
        (pickle.dumps({"images": ["/etc/passwd"]}), "Image 0 is of type str"),
        (pickle.dumps({"images": b"x"}), "no images"),
        (pickle.dumps([b"x"]), "no images"),
        (pickle.dumps({"images": [b"x"]}, 2), "GLOBAL"),
        (b"\x80\x04", "damaged"),
    ],
)
def test_what_is_no_request(body, said):
    with pytest.raises(MalformedRequestError, match=said):
        read_images(body, max_bytes=2**20)


def test_text_is_never_taken_for_a_path(tmp_path, monkeypatch):
    """A file whose name is valid base64: its content must not be what is scored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aGVsbG8=").write_bytes(b"secret")
    assert read_images(b'{"images": ["aGVsbG8="]}', max_bytes=5) == [b"hello"]
