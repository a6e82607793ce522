"""What is read from the bodies of requests, and what is refused."""

import base64
import io
import json
import pickle

import numpy as np
import pytest

from ma_agiqa_client.rewards._batch import EXPECTED, WrongInputError
from ma_agiqa_client.rewards._protocols import (
    MalformedRequestError,
    read_compute,
    read_enqueued,
    read_query,
    read_score,
)

IMAGE = b"\xff\xd8\x00"
TEXT = base64.b64encode(IMAGE).decode()
MIB = 2**20


@pytest.mark.parametrize("text", [TEXT, f"data:image/jpeg;base64,{TEXT}"])
def test_images_in_json(text):
    body = json.dumps({"images": [text, TEXT], "prompts": ["a", None], "metadata": {}}).encode()
    call = read_score(body, MIB)
    assert (call.pickled, call.names, call.partial) == (False, None, False)
    assert (call.batch.images, call.batch.prompts) == ([IMAGE] * 2, ["a", ""])


def test_long_texts_beside_the_images_stay_texts():
    metadata = [{"image": "a" * 5_000, "images": ["a" * 5_000]}]
    fields = {"images": [TEXT * 2_000], "prompts": ["b" * 5_000], "metadata": metadata}
    batch = read_score(json.dumps(fields).encode(), MIB).batch
    assert batch.images == [IMAGE * 2_000]
    assert (batch.prompts, batch.metadata) == (["b" * 5_000], metadata)


@pytest.mark.parametrize("container", [list, tuple])
def test_images_in_a_pickle(container):
    body = pickle.dumps({"images": container([IMAGE, b"2"]), "meta_datas": [{"a": 1}, {}]})
    call = read_score(body, MIB)
    assert call.pickled
    assert (call.batch.images, call.batch.metadata) == ([IMAGE, b"2"], [{"a": 1}, {}])


def test_the_last_turn_of_a_conversation_is_what_was_generated():
    """UniRL puts the picture that was edited before it."""
    turns = [{"text": "p", "image_b64": base64.b64encode(b"source").decode()}]
    turns += [{"text": "p", "image_b64": TEXT}]
    one = {"history": turns, "required_rewards": ["mos"], "metadata": None}
    call = read_score(json.dumps({"requests": [one]}).encode(), MIB)
    assert (call.batch.images, call.batch.prompts, call.names) == ([IMAGE], ["p"], ("mos",))
    assert call.partial


def enqueued(array, media_type="image", **fields) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    head = {"media_type": media_type, "reward_fn": {"mos": 1.0}, "prompts": [], **fields}
    return json.dumps(head).encode() + b"\n" + file.getvalue()


LEVELS = np.linspace(0, 255, 2 * 4 * 5 * 3).reshape(2, 4, 5, 3).astype(np.uint8)


@pytest.mark.parametrize(
    "array",
    [LEVELS, LEVELS.transpose(0, 3, 1, 2), np.asfortranarray(LEVELS), LEVELS / 255.0],
)
def test_arrays_in_either_order_of_axes(array):
    files = read_enqueued(enqueued(array), MIB).batch.images
    pixels = [np.frombuffer(file[-60:], np.uint8).reshape(4, 5, 3) for file in files]
    assert np.array_equal(pixels, LEVELS)


LAST = {"text": None, "image_b64": TEXT}
TURN = {"history": [LAST], "required_rewards": ["mos"]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "no images"),
        (b"null", "no images"),
        (b'{"images": ["aGk=", "/etc/passwd!"]}', "Image 1 is not base64"),
        (b'{"images": ["aGkAB"]}', "Image 0 is not base64"),
        ('{"images": ["ü"]}'.encode(), "Image 0 is not base64"),
        (b'{"images": ["aGk="], "prompts": ["a", "b"]}', "1 prompts"),
        (b'{"images": [' + b'"AA==",' * 4096 + b'"AA=="]}', "4,097 images; expected at most"),
        (b'{"requests": [1]}', "a list of objects"),
        (b'{"requests": [{"history": []}]}', "history"),
        (b'{"requests": [{"history": [{}], "required_rewards": []}]}', "required_rewards"),
        (pickle.dumps({"requests": [TURN | {"required_rewards": ["mos"] * 65}]}), "1 to 64 names"),
        (pickle.dumps({"requests": [TURN | {"history": [LAST | {"text": [[]]}]}]}), "type list"),
        (pickle.dumps({"images": [IMAGE], "prompts": [["a"]]}), "a prompt of type list"),
        (pickle.dumps({"images": [IMAGE] * 2, "prompts": "a" * 65_537}), "at most 65,536 char"),
        (pickle.dumps({"images": [" " * MIB] * 2}), "over 1,048,576 bytes together"),
        (pickle.dumps([b"x"]), "no images"),
        (pickle.dumps({"images": [b"x"]}, 2), "GLOBAL"),
        (b"\x80\x04", "damaged"),
    ],
)
def test_what_is_no_request(body, said):
    with pytest.raises(MalformedRequestError, match=said):
        read_score(body, MIB)


NPY = enqueued(LEVELS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{}", "second line"),
        (NPY[:-1], "119 bytes for the shape"),
        (NPY.replace(b"(2, 4,", b"(9, 4,"), "120 bytes for the shape"),
        (NPY.replace(b"|u1", b"|O8"), "objects|damaged|cannot be read"),
        (NPY.partition(b"\n")[0] + b"\nPK\x03\x04", "cannot be read"),
        (enqueued(LEVELS, reward_fn={}), "reward_fn"),
        (enqueued(LEVELS, prompts=["a"]), "2 prompts"),
    ],
)
def test_arrays_that_cannot_be_read(body, said):
    with pytest.raises(MalformedRequestError, match=said):
        read_enqueued(body, MIB)


def one_turn(**turn) -> bytes:
    return json.dumps({"requests": [{"history": [turn], "required_rewards": ["mos"]}]}).encode()


LATENTS = np.zeros((2, 16, 8, 8), np.float32)
WRONG = {
    "no field": (read_score, b"{}"),
    "no images": (read_score, b'{"images": []}'),
    "one image": (read_score, b'{"images": "aGk="}'),
    "a number": (read_score, b'{"images": [1]}'),
    "null": (read_score, b'{"images": [null]}'),
    "nested lists": (read_score, json.dumps({"images": LATENTS.tolist()}).encode()),
    "one image in a pickle": (read_score, pickle.dumps({"images": b"x"})),
    "a file of latents": (read_score, pickle.dumps({"images": [b"\x93NUMPY..."]})),
    "a torch file": (read_score, pickle.dumps({"images": [b"PK\x03\x04..."]})),
    "UniRL, no images": (read_score, b'{"requests": []}'),
    "UniRL, a video": (read_score, one_turn(text="", video_b64=TEXT)),
    "Flow-Factory, no images": (read_compute, b'{"prompt": [], "image": null}'),
    "Flow-Factory, videos": (read_compute, json.dumps({"video": [[TEXT]]}).encode()),
    "OpenRLHF, texts": (read_query, b'{"query": [["a"]]}'),
    "cosmos-rl, latents": (read_enqueued, enqueued(LATENTS, "latent")),
    "cosmos-rl, latents called images": (read_enqueued, enqueued(LATENTS)),
    "cosmos-rl, -1..1": (read_enqueued, enqueued(LEVELS / 127.5 - 1)),
    "cosmos-rl, channels in the middle": (read_enqueued, enqueued(LEVELS.swapaxes(2, 3))),
    "cosmos-rl, video": (read_enqueued, enqueued(np.zeros((1, 3, 2, 8, 8), np.uint8))),
    "cosmos-rl, integers": (read_enqueued, enqueued(LEVELS.astype(np.int64))),
    "cosmos-rl, no images": (read_enqueued, enqueued(LEVELS[:0])),
}


@pytest.mark.parametrize("kind", WRONG)
def test_every_protocol_refuses_what_is_no_picture_in_the_same_sentence(kind):
    read, body = WRONG[kind]
    with pytest.raises(WrongInputError) as caught:
        read(body, MIB)
    assert str(caught.value).endswith(EXPECTED)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (read_score, pickle.dumps({"images": [b"x" * 100] * 5})),
        (read_compute, json.dumps({"image": [TEXT * 50] * 3}).encode()),
        (read_enqueued, enqueued(np.zeros((9, 8, 8, 3), np.uint8))),
    ],
)
def test_images_that_are_too_large_together(read, body):
    with pytest.raises(MalformedRequestError, match="over 400 bytes together"):
        read(body, 400)


def test_text_is_never_taken_for_a_path(tmp_path, monkeypatch):
    """A file whose name is valid base64: its content must not be what is scored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aGVsbG8=").write_bytes(b"secret")
    assert read_score(b'{"images": ["aGVsbG8="]}', 8).batch.images == [b"hello"]
