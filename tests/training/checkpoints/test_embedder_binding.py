"""A scorer goes with the embedder of its training: weights, prompts and, unless chosen, dtype."""

import dataclasses
import logging

import pytest
from click.testing import CliRunner

from ma_agiqa.checkpoints.card import official_card
from ma_agiqa.checkpoints.embedder_binding import EmbedderIdentity, check_binding
from ma_agiqa.commands.mplug_owl2 import main as convert
from ma_agiqa.errors import ConfigError
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.embedder import PROMPTS
from ma_agiqa.lmm.mplug_owl2.weight_files import write_tensors
from ma_agiqa.lmm.sources import PAPER_EMBEDDER, demo_mplug_owl2
from ma_agiqa.settings import to_mapping
from support.tiny_scorer import CARD

OTHER_PROMPTS = {**PROMPTS, "semantic": (1, -200, 2)}


def identity(source="owl", dtype="float16", weights="a" * 64, prompts=PROMPTS):
    return EmbedderIdentity(source, dtype, weights, prompts)


def card():
    return dataclasses.replace(CARD, embedder=to_mapping(identity()))


@pytest.mark.parametrize(
    ("found", "any_dtype"),
    [
        (identity(), False),
        (identity(source="moved"), False),
        (identity(dtype="int8"), True),
        (identity(dtype=None), False),
    ],
)
def test_the_same_weights_are_accepted_in_silence(caplog, found, any_dtype):
    check_binding(card(), found, "--embedder", any_dtype)
    assert not caplog.records


@pytest.mark.parametrize(
    ("found", "any_dtype", "message"),
    [
        (identity(weights="b" * 64), True, f"hash of its weights is {'b' * 64}, not {'a' * 64}"),
        (dataclasses.replace(identity(), preprocessing={"pixels": "x"}), True, "its preprocessing"),
        (identity(prompts=OTHER_PROMPTS), True, "its prompts.semantic is .*, not "),
        (identity(dtype="int8"), False, "its dtype is int8, not float16"),
        (
            identity(source="elsewhere", weights=None),
            True,
            "not here to be compared",
        ),
    ],
)
def test_another_embedder_is_refused(found, any_dtype, message):
    with pytest.raises(ConfigError, match=f"tiny .* than --embedder x: .*{message}.*owl in float"):
        check_binding(card(), found, "--embedder x", any_dtype)


@pytest.mark.parametrize(
    ("trained", "found", "reason"),
    [
        (official_card(), identity(source="a folder"), "its card has no hash"),
        (card(), identity(weights=None), "they are not on this machine"),
    ],
)
def test_what_cannot_be_verified_is_said(caplog, trained, found, reason):
    with caplog.at_level(logging.WARNING):
        check_binding(trained, found, "--embedder")
    assert reason in caplog.text


def test_the_official_card_names_the_papers_embedder():
    assert EmbedderIdentity.from_mapping(official_card().embedder).source == PAPER_EMBEDDER


def test_a_converted_folder_is_its_source_until_it_is_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    owl, folder = demo_mplug_owl2(), tmp_path / "owl"
    write_tensors(folder, owl.config.to_dict(), owl.state_dict().items())
    done = CliRunner().invoke(convert, [str(folder), str(tmp_path / "bf16")])
    assert done.exit_code == 0, done.output

    def found(source, dtype):
        hashes = FileHashes(tmp_path / "hashes.json")
        return EmbedderIdentity.of(str(tmp_path / source), dtype, hashes).weights_sha256

    for dtype in ("bfloat16", "int8", "int4"):
        assert found("bf16", dtype) == found("owl", dtype)
    assert found("bf16", "float32") not in (found("owl", "float32"), None)
    config = tmp_path / "bf16" / "config.json"
    config.write_text(config.read_text().replace("1e-05", "1e-04"))
    assert found("bf16", "bfloat16") not in (found("owl", "bfloat16"), None)
