"""serve.py with TLS, client certificates and a token, asked by the SDK, score.py and to_triton."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch
import tritonclient.grpc
from click.testing import CliRunner, Result
from tritonclient.utils import InferenceServerException

import to_triton
from ma_agiqa_client import (
    AuthenticationError,
    Retry,
    Scorer,
    ServerUnavailableError,
    Tls,
)
from support.supervised import Supervised

ROOT = Path(__file__).resolve().parents[2]
IMAGE = sorted((ROOT / "examples").glob("*.jpg"))[0]
TOKEN = "0123456789abcdef0123456789abcdef"


class Brightness(torch.nn.Module):
    """What the stand-in computes, for the comparison in process."""

    def forward(self, view: torch.Tensor, semantic: torch.Tensor, coherence: torch.Tensor):
        pixels = view.double()
        score = pixels.mean(dim=(1, 2, 3)).unsqueeze(1) / 51
        gate = 0.5 + pixels.mean(dim=(1, 2)) / 510
        patches = pixels.reshape(-1, 7, 32, 7, 32, 3).mean(dim=(2, 4, 5)) / 51
        return score.float(), gate.float(), patches.float(), torch.ones_like(patches).float()


@pytest.fixture(scope="module")
def files(certificates, stand_in_repository, tmp_path_factory) -> Path:
    """The certificates, `token` and `models`, whose version can be rolled back to."""
    folder = tmp_path_factory.mktemp("secure") / "files"
    shutil.copytree(certificates, folder)
    shutil.copytree(stand_in_repository, folder / "models")
    torch.jit.script(Brightness()).save(folder / "models" / "maniqa_moe" / "1" / "model.pt")
    (folder / "token").write_text(TOKEN)
    return folder


@pytest.fixture(scope="module")
def url(files) -> Iterator[str]:
    """HOST:PORT of a server that asks for a certificate and for the token."""
    server = Supervised(
        *(files / "models", files / "log"),
        *("--tls-cert", f"{files}/localhost.pem", "--tls-key", f"{files}/localhost.key"),
        *("--tls-client-ca", f"{files}/issuer.pem", "--token-file", f"{files}/token"),
    )
    yield f"localhost:{server.url.rpartition(':')[2]}"
    server.stop()


def tls(files: Path, name: str | None = "client", issuer: str = "issuer", **options: str) -> Tls:
    own = (files / f"{name}.pem", files / f"{name}.key") if name else (None, None)
    return Tls(files / f"{issuer}.pem", *own, **options)


def options(files: Path) -> list[object]:
    """Those that every program here has for TLS."""
    own = ("--tls-cert", files / "client.pem", "--tls-key", files / "client.key")
    return ["--tls-ca", files / "issuer.pem", *own]


def test_the_sdk_scores_with_certificate_and_token(url, files):
    with Scorer(url, tls=tls(files), token=TOKEN) as scorer:
        assert scorer.health()
        assert scorer.model().name == "ma-agiqa-demo"
        assert scorer.score(IMAGE).error is None


def test_an_address_may_have_another_name_than_the_certificate(url, files):
    address, named = url.replace("localhost", "127.0.0.1"), tls(files, server_name="localhost")
    with Scorer(address, tls=named, token=TOKEN) as scorer:
        assert scorer.score(IMAGE).error is None


@pytest.mark.parametrize(
    ("token", "status", "said"), [(TOKEN, 0, ""), (TOKEN[::-1], 3, "Check the token")]
)
def test_score_py_with_certificate_and_token(
    url, files, score_py, monkeypatch, token, status, said
):
    monkeypatch.setenv("MA_AGIQA_TOKEN", token)
    result = score_py(IMAGE, "--format", "json", "--url", url, *options(files))
    assert result.exit_code == status, result.stderr
    assert said in result.stderr
    assert TOKEN not in result.stderr
    if status == 0:
        (row,) = json.loads(result.stdout)
        assert isinstance(row["mos"], float)


@pytest.mark.parametrize("token", [None, TOKEN[::-1]])
def test_without_the_token_nothing_is_scored_or_told(url, files, token):
    with Scorer(url, tls=tls(files), token=token) as scorer:
        for call in (scorer.model, lambda: scorer.score(IMAGE)):
            with pytest.raises(AuthenticationError, match="Check the token"):
                call()


@pytest.mark.parametrize(
    "security",
    [
        lambda files: tls(files, None),
        lambda files: tls(files, "stranger"),
        lambda files: tls(files, issuer="other"),
        lambda files: tls(files, server_name="another.example.org"),
        lambda files: None,
    ],
    ids=["no certificate", "a stranger's", "unknown issuer", "another name", "no TLS"],
)
def test_connections_that_cannot_be_trusted_are_refused(url, files, security):
    quick = Retry(connect_budget_s=0.3)
    with (
        Scorer(url, tls=security(files), token=TOKEN, retry=quick) as scorer,
        pytest.raises(ServerUnavailableError, match=url),
    ):
        scorer.score(IMAGE)


@pytest.mark.parametrize(
    "call",
    [
        lambda client, headers: client.load_model("ma_agiqa", headers=headers),
        lambda client, headers: client.unload_model("preprocess", headers=headers),
        lambda client, headers: client.get_model_repository_index(headers=headers),
        lambda client, headers: client.update_log_settings({"log_file": "/x"}, headers=headers),
        lambda client, headers: client.update_trace_settings(settings={}, headers=headers),
        lambda client, headers: client.register_system_shared_memory(
            "name", "/key", 8, headers=headers
        ),
        lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
    ],
    ids=["load", "unload", "index", "log", "trace", "shared memory", "CUDA memory"],
)
def test_even_with_everything_right_the_closed_services_stay_closed(url, files, call):
    credentials = grpc.ssl_channel_credentials(
        *((files / name).read_bytes() for name in ("issuer.pem", "client.key", "client.pem"))
    )
    client = tritonclient.grpc.InferenceServerClient(url, ssl=True, creds=credentials)
    with client, pytest.raises(InferenceServerException, match="restricted"):
        call(client, {"triton-grpc-protocol-authorization": f"Bearer {TOKEN}"})


def test_versions_are_changed_with_the_key_a_certificate_and_the_token(url, files):
    """Back to the version that is active: everything is asked, and no file changes."""

    def roll_back(key: Path) -> Result:
        command = ["rollback", url, "--to", "1", "--repository", files / "models"]
        command += [*options(files), "--token", TOKEN, "--admin-key-file", key]
        return CliRunner().invoke(to_triton.main, list(map(str, command)))

    assert (files / "log.key").stat().st_mode & 0o777 == 0o600
    done = roll_back(files / "log.key")
    assert done.stdout == f"Version 1 is active at {url}.\n", done.stderr
    (files / "wrong.key").write_text("0" * 32)
    done = roll_back(files / "wrong.key")
    assert done.exit_code == 1
    assert "requires its administrator key to change models" in done.stderr
