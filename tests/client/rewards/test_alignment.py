"""The reward `alignment`: its values, and what lacks a prompt or a server that compares."""

from base64 import b64encode

import grpc
import pytest
import requests
from click.testing import CliRunner

from ma_agiqa_client.rewards.__main__ import main
from ma_agiqa_client.rewards._parts import reward_set

FILES = [b"10", b"20", b"30"]
BOTH = ["mos", "alignment=0.5"]


@pytest.fixture
def ask(serve):
    def ask(weights=BOTH, files=FILES, server=None, **fields):
        running = server or serve(rewards=reward_set(weights, []))
        body = {"images": [b64encode(file).decode() for file in files], **fields}
        return requests.post(running.address, json=body, timeout=60)

    return ask


def test_both_rewards_come_with_one_request_for_each_image(ask, scripted):
    fields = ask(prompts=["a", "bb", "ccc"]).json()
    assert fields["parts"]["alignment"] == pytest.approx([0.01, 0.02, 0.03])
    assert fields["parts"]["mos"] == pytest.approx([0.1, 0.2, 0.3])
    assert fields["scores"] == pytest.approx([0.105, 0.21, 0.315])
    assert len(scripted.requests) == 3


def test_one_prompt_is_that_of_all_images(ask):
    fields = ask(["alignment"], prompts="a cat").json()
    assert fields["scores"] == pytest.approx([0.05] * 3)
    assert fields["mos"] == [10, 20, 30]


def test_prompts_are_not_sent_where_they_are_not_asked_for(ask, scripted):
    ask(["mos"], prompts=["a", "bb", "ccc"])
    assert {len(request.inputs) for request in scripted.requests} == {1}


@pytest.mark.parametrize(
    ("prompts", "status", "sentence"),
    [
        (None, 502, "needs prompts, and the request has none"),
        (["a", " ", "ccc"], 422, "The image has an empty prompt"),
        (["a", "long", "ccc"], 422, "The prompt has 2,000 tokens."),
    ],
)
def test_a_missing_alignment_is_an_error_and_mos_is_kept(ask, scripted, prompts, status, sentence):
    def check(request, context):
        if len(request.inputs) > 1 and request.raw_input_contents[1][4:] == b"long":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The prompt has 2,000 tokens.")

    scripted.check = check
    reply = ask(prompts=prompts)
    assert reply.status_code == status
    fields = reply.json()
    assert sentence in fields["error"]
    assert fields["parts"]["mos"] == pytest.approx([0.1, 0.2, 0.3])
    lacking = [0, 1, 2] if prompts is None else [1]
    for index, (alignment, errors) in enumerate(
        zip(fields["parts"]["alignment"], fields["errors"], strict=True)
    ):
        assert (alignment is None) == ("alignment" in errors) == (index in lacking)


def test_only_a_single_prompt_falls_back(serve, ask):
    server = serve(rewards=reward_set(BOTH, []), fallback=-1)
    fields = ask(server=server, prompts=["a", "", "ccc"]).json()
    assert fields["scores"] == pytest.approx([0.105, -1, 0.315])
    assert fields["failed"] == [1]
    assert ask(server=server).status_code == 502


def test_a_model_that_cannot_is_an_error_no_fallback_hides(serve, ask, scripted):
    def check(request, context):
        if len(request.inputs) > 1:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "It has no words.")

    scripted.check = check
    server = serve(rewards=reward_set(BOTH, []), fallback=-1)
    reply = ask(server=server, prompts="a cat")
    assert reply.status_code == 502
    assert "It has no words." in reply.json()["error"]
    assert reply.json()["parts"]["mos"] == pytest.approx([0.1, 0.2, 0.3])


def test_a_server_without_alignment_is_refused_at_the_start(scripted):
    del scripted.card["alignment"]
    done = CliRunner().invoke(main, ["--url", scripted.url, "--reward", "alignment"])
    assert done.exit_code == 3
    assert "does not compare images with prompts" in done.stderr
