"""Several rewards: measures of pixels, functions, other servers, their sum, and what failed."""

import json
import pickle
import socket
import threading
from base64 import b64encode

import grpc
import numpy as np
import pytest
import requests
from PIL import Image, ImageFilter

from ma_agiqa_client.retry import Outage, Retry
from ma_agiqa_client.rewards import _batch, _measures, _parts
from ma_agiqa_client.rewards._batch import Batch, RewardSet
from ma_agiqa_client.rewards._parts import reward_set
from support.pictures import encoded, picture
from support.scripted_server import brightness

PICTURES = [picture(seed, 48, 64) for seed in range(3)]


FILES = [encoded(pixels) for pixels in PICTURES]


def ask(server, files=FILES, path="/", **fields):
    body = {"images": [b64encode(file).decode() for file in files], **fields}
    return requests.post(server.address + path, json=body, timeout=60)


@pytest.fixture
def bright(scripted):
    scripted.answer = brightness


def test_jpeg_rewards_are_those_of_ddpo():
    for pixels in PICTURES:
        kilobytes = len(encoded(pixels, "JPEG", quality=95)) / 1000
        assert _measures.incompressibility(Image.fromarray(pixels)) == kilobytes
        assert _measures.compressibility(Image.fromarray(pixels)) == -kilobytes


def test_colorfulness_is_that_of_the_paper():
    red, green, blue = PICTURES[0].astype(np.float64).transpose(2, 0, 1)
    rg, yb = red - green, (red + green) / 2 - blue
    spread, mean = np.sqrt(rg.var() + yb.var()), np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    image = Image.fromarray(PICTURES[0])
    assert _measures.colorfulness(image) == pytest.approx(spread + 0.3 * mean, rel=1e-5)
    assert _measures.colorfulness(image.convert("L").convert("RGB")) == 0


def test_sharpness_and_resolution():
    image = Image.fromarray(PICTURES[0])
    blurred = image.filter(ImageFilter.GaussianBlur(2))
    assert _measures.sharpness(blurred) < _measures.sharpness(image) / 2
    assert _measures.sharpness(Image.new("RGB", (9, 9), "red")) == 0
    assert _measures.sharpness(Image.new("RGB", (2, 1))) == 0
    assert _measures.resolution(image) == 48 * 64 / 1e6


@pytest.mark.usefixtures("bright")
def test_the_answer_holds_every_part_and_their_weighted_sum(serve):
    weights = ["mos=2", "sharpness=0.5", "colorfulness=-0.01", "resolution=0"]
    fields = ask(serve(rewards=reward_set(weights, []))).json()
    parts = {name: np.array(values) for name, values in fields["parts"].items()}
    assert list(parts) == ["mos", "sharpness", "colorfulness", "resolution"]
    images = [Image.fromarray(pixels) for pixels in PICTURES]
    assert parts["sharpness"] == pytest.approx([_measures.sharpness(one) for one in images])
    total = 2 * parts["mos"] + 0.5 * parts["sharpness"] - 0.01 * parts["colorfulness"]
    assert fields["scores"] == pytest.approx(total)
    assert fields["errors"] == [{}, {}, {}]


def prompt_length(images, prompts, metadata):
    """As trainers write rewards: some return a pair."""
    assert all(image.mode == "RGB" for image in images)
    return [len(prompt) for prompt in prompts], {"tags": metadata}


def brightest(images, prompts, metadata):
    return np.array([np.asarray(image).max() / 255 for image in images])


def nan_for_the_second(images, prompts, metadata):
    return [0.5, float("nan"), 0.5]


def too_few(images, prompts, metadata):
    return [0.5]


def raises(images, prompts, metadata):
    raise KeyError("a mistake")


def added(function, *weights):
    return reward_set(weights, [f"own={__name__}:{function.__name__}"])


@pytest.mark.usefixtures("bright")
def test_a_users_function(serve):
    prompts = ["a", "ab", "abc"]
    fields = ask(serve(rewards=added(prompt_length)), prompts=prompts).json()
    assert fields["parts"]["own"] == [1, 2, 3]
    mos = fields["parts"]["mos"]
    assert fields["scores"] == pytest.approx([1 + mos[0], 2 + mos[1], 3 + mos[2]])
    fields = ask(serve(rewards=added(brightest, "own=3"))).json()
    assert list(fields["parts"]) == ["own"]
    assert fields["scores"] == pytest.approx([pixels.max() / 85 for pixels in PICTURES])


@pytest.mark.parametrize(
    ("function", "status", "said"),
    [
        (nan_for_the_second, 422, "gave nan"),
        (too_few, 502, "1 rewards for 3"),
        (raises, 502, "Key"),
    ],
)
@pytest.mark.usefixtures("bright")
def test_a_reward_that_fails_is_neither_0_nor_left_out(serve, function, status, said):
    reply = ask(serve(rewards=added(function)))
    assert reply.status_code == status
    assert said in reply.json()["error"]
    assert "scores" not in reply.json()
    assert None not in reply.json()["parts"]["mos"]
    assert reply.json()["parts"]["own"][1] is None
    assert said in reply.json()["errors"][1]["own"]


@pytest.mark.usefixtures("bright")
def test_the_fallback_replaces_the_whole_sum_of_an_image(serve):
    fields = ask(serve(rewards=added(nan_for_the_second), fallback=-1.0)).json()
    assert (fields["scores"][1], fields["failed"]) == (-1, [1])
    assert fields["scores"][0] == pytest.approx(fields["parts"]["mos"][0] + 0.5)
    assert ask(serve(rewards=added(raises), fallback=-1.0)).status_code == 502  # hides no mistake


@pytest.mark.usefixtures("bright")
def test_a_reward_of_weight_0_may_fail(serve):
    fields = ask(serve(rewards=added(raises, "mos", "own=0"))).json()
    assert fields["scores"] == fields["parts"]["mos"]
    assert all("KeyError" in errors["own"] for errors in fields["errors"])


def test_the_error_is_that_of_a_reward_in_the_sum(serve, scripted):
    scripted.answer = lambda image, context: context.abort(grpc.StatusCode.UNAVAILABLE, "Busy.")
    reply = ask(serve(rewards=added(raises, "own=0", "mos")))
    assert (reply.status_code, "has no reward. " in reply.json()["error"]) == (503, True)


def halves(images, prompts, metadata):
    for image in images:
        image.thumbnail((image.width // 2, image.height // 2))  # in place
    return [0.0] * len(images)


def test_a_function_does_not_change_what_others_measure(serve):
    alone = ask(serve(rewards=reward_set(["resolution"], []))).json()["parts"]["resolution"]
    together = ask(serve(rewards=added(halves, "own", "resolution"))).json()["parts"]["resolution"]
    assert together == alone
    batch = Batch(FILES)
    added(halves, "own").parts["own"](batch)
    assert [picture.size for picture in batch.pictures] == [p.shape[1::-1] for p in PICTURES]


@pytest.mark.usefixtures("bright")
def test_an_image_that_cannot_be_decoded_fails_alone(serve):
    reply = ask(
        serve(rewards=added(prompt_length, "sharpness", "own"), fallback=0.0), [*FILES, b"x"]
    )
    fields = reply.json()
    assert fields["failed"] == [3]
    assert set(fields["errors"][3]) == {"sharpness", "own"}
    assert fields["errors"][:3] == [{}, {}, {}]


@pytest.mark.parametrize("path", ["", "/compute", "/get_reward", "/score#sharpness"])
def test_another_server_as_a_reward(serve, path):
    """Each protocol that `--add` speaks, to a server of this package."""
    other = serve(rewards=reward_set(["sharpness"], []))
    server = serve(rewards=reward_set(["there=2"], [f"there={other.address}{path}"]))
    expected = [2 * _measures.sharpness(Image.fromarray(pixels)) for pixels in PICTURES]
    assert ask(server, prompts=["a", "b", "c"]).json()["scores"] == pytest.approx(expected)


def test_one_image_fails_at_the_other_server(serve):
    other = serve(rewards=reward_set(["sharpness"], []))
    server = serve(rewards=reward_set(["far"], [f"far={other.address}/score#sharpness"]))
    reply = ask(server, [*FILES, b"x"])
    assert reply.status_code == 422
    assert reply.json()["parts"]["far"][:3] != [None] * 3
    assert "cannot open" in reply.json()["errors"][3]["far"]


def far(url="http://localhost/compute"):
    """Another server as the only reward, that is asked once."""
    once = Outage(Retry(connect_budget_s=0, budget_s=0))
    return RewardSet({"far": 1.0}, {"far": _parts._Remote("far", url, once)})


def test_the_other_server_is_gone(serve, no_server):
    rewards = far(f"http://{no_server}/compute")
    reply = ask(serve(rewards=rewards))
    assert (reply.status_code, "No answer" in reply.json()["error"]) == (503, True)
    assert ask(serve(rewards=rewards, fallback=0.5)).json()["scores"] == [0.5] * 3


def test_another_server_that_does_not_speak_http(serve):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            while connection.recv(2**16):  # until the other side has closed it
                pass
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        reply = ask(serve(rewards=far(f"http://127.0.0.1:{port}/compute")))
    assert (reply.status_code, "BadStatusLine" in reply.json()["error"]) == (503, True)


HUGE = b'{"rewards": [1%s]}' % (b"0" * 400)  # as a float it would be infinite


@pytest.mark.parametrize(
    "body",
    [b"no JSON", b"[]", b"{}", HUGE, b'{"rewards": "x"}', b'{"error": "No."}', pickle.dumps({1})],
)
def test_another_server_that_answers_nonsense(serve, body):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parts._Remote, "_post", lambda *_: body)
        reply = ask(serve(rewards=far(), fallback=0.1))
    assert reply.status_code == 502
    assert all("far" in errors for errors in reply.json()["errors"])


@pytest.mark.parametrize("field", ["error", "rewards", "errors"])
def test_a_value_of_another_server_that_would_take_gigabytes_as_text(field):
    value = []
    for _ in range(15):  # twice the text each time
        value = [value, value]
    reply = {"results": [{}], "errors": value, "rewards": [value]}
    reply |= {"error": value} if field == "error" else {}
    path = "score" if field == "errors" else "compute"
    remote = _parts._Remote("far", f"http://localhost/{path}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_parts._Remote, "_post", lambda *_: pickle.dumps(reply))
        (error,) = remote(Batch([b""]))
    assert "[[" in str(error)
    assert len(str(error)) < 1000


def test_a_function_gets_no_more_pixels_than_fit_into_memory(serve, bright, monkeypatch):
    monkeypatch.setattr(_parts, "_MAX_PIXELS", 3 * 48 * 64)
    server = serve(rewards=RewardSet({"own": 1.0}, {"own": _parts._Function("own", sizes)}))
    assert ask(server).json()["scores"] == [64.0] * 3
    reply = ask(server, [*FILES, FILES[0]])
    assert (reply.status_code, "12,288 pixels, at most" in reply.json()["error"]) == (502, True)
    assert ask(serve(guard=True), [*FILES, FILES[0]]).ok


def sizes(images, prompts, metadata):
    return [image.width for image in images]


def test_measures_have_one_decoded_picture_at_a_time(monkeypatch):
    decoded = []
    monkeypatch.setattr(_batch, "_decoded", lambda file: decoded.append(file))
    measure = _parts._Measure(lambda picture: len(decoded))
    assert measure(Batch(FILES)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("weights", "others", "said"),
    [
        (["beauty"], [], "There is no reward 'beauty'; known are mos, alignment, comp"),
        (["mos=high"], [], "no weight"),
        (["mos=nan"], [], "no weight"),
        (["mos", "mos=2"], [], "twice"),
        (["mos=0"], [], "all rewards are 0"),
        ([], ["mos=os:getcwd"], "new name"),
        ([], ["os:getcwd"], "new name"),
        ([], ["a=no_such_module:f"], "cannot be imported"),
        ([], ["a=os:no_such_name"], "cannot be imported"),
        ([], ["a=os:name"], "is not a function"),
    ],
)
def test_rewards_that_are_not_understood(weights, others, said):
    with pytest.raises(ValueError, match=said):
        reward_set(weights, others)


def test_without_options_the_reward_is_mos():
    assert reward_set([], []).weights == {"mos": 1.0}
    assert reward_set([], ["a=os:getcwd"]).weights == {"mos": 1.0, "a": 1.0}
    assert reward_set(["sharpness=2"], ["a=os:getcwd"]).weights == {"a": 1.0, "sharpness": 2.0}


def test_the_names_are_served(serve):
    server = serve(rewards=reward_set(["mos", "sharpness=0"], []))
    names = requests.get(server.address + "/rewards", timeout=60).json()
    assert names == {"rewards": ["mos", "sharpness"]}
    health = requests.get(server.address + "/health", timeout=60).json()
    assert health["rewards"] == {"mos": ["ready"], "sharpness": ["ready"]}


def test_a_reward_that_is_not_served(serve):
    turn = {"text": "", "image_b64": b64encode(FILES[0]).decode()}
    body = {"requests": [{"history": [turn], "required_rewards": ["hpsv2"]}]}
    reply = requests.post(serve().address + "/score", data=json.dumps(body), timeout=60)
    assert (reply.status_code, "expected mos" in reply.json()["error"]) == (400, True)
