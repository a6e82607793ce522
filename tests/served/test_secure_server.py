"""serve.py with TLS, client certificates and a token, asked by the SDK and by score.py."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc
import trustme
from tritonclient.utils import InferenceServerException

from ma_agiqa_client import (
    AuthenticationError,
    Retry,
    Scorer,
    ServerUnavailableError,
    Tls,
)

ROOT = Path(__file__).resolve().parents[2]
IMAGE = sorted((ROOT / "examples").glob("*.jpg"))[0]
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """PEM files of the issuer, the server, a client and a stranger; the token."""
    folder = tmp_path_factory.mktemp("certificates")
    issuer, other = trustme.CA(), trustme.CA()
    issuer.cert_pem.write_to_path(folder / "issuer.pem")
    for name, ca in {"localhost": issuer, "client": issuer, "stranger": other}.items():
        certificate = ca.issue_cert(name)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    (folder / "token").write_text(TOKEN)
    return folder


@pytest.fixture(scope="module")
def url(files) -> Iterator[str]:
    """HOST:PORT of a server that asks for a certificate and for the token."""
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / "deploy" / "serve.py"),
            *("--free-ports", "--json", "--until-stdin-closes", "--log-file", files / "log"),
            *("--tls-cert", files / "localhost.pem", "--tls-key", files / "localhost.key"),
            *("--tls-client-ca", files / "issuer.pem", "--token-file", files / "token"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    status = json.loads(process.stdout.readline())
    yield f"localhost:{status['grpc_url'].rpartition(':')[2]}"
    process.communicate(timeout=60)


def tls(files: Path, name: str | None = "client") -> Tls:
    own = (files / f"{name}.pem", files / f"{name}.key") if name else (None, None)
    return Tls(files / "issuer.pem", *own)


def test_the_sdk_scores_with_certificate_and_token(url, files):
    with Scorer(url, tls=tls(files), token=TOKEN) as scorer:
        assert scorer.health()
        assert scorer.model().name == "ma-agiqa-demo"
        assert scorer.score(IMAGE).error is None


def test_score_py_scores_with_certificate_and_token(url, files):
    result = score_py(url, files, TOKEN)
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert isinstance(row["mos"], float)


def test_score_py_says_what_is_wrong_with_the_token(url, files):
    result = score_py(url, files, TOKEN[::-1])
    assert result.returncode == 3
    assert "Check the token" in result.stderr
    assert TOKEN not in result.stderr


def score_py(url: str, files: Path, token: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, ROOT / "client" / "score.py", IMAGE, "--format", "json"),
            *("--url", url, "--tls-ca", files / "issuer.pem"),
            *("--tls-cert", files / "client.pem", "--tls-key", files / "client.key"),
        ],
        env={"MA_AGIQA_TOKEN": token, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("token", [None, TOKEN[::-1]])
def test_without_the_token_nothing_is_scored_or_told(url, files, token):
    with Scorer(url, tls=tls(files), token=token) as scorer:
        for call in (scorer.model, lambda: scorer.score(IMAGE)):
            with pytest.raises(AuthenticationError, match="Check the token"):
                call()


@pytest.mark.parametrize("name", [None, "stranger"])
def test_without_a_certificate_of_the_issuer_there_is_no_connection(url, files, name):
    with (
        Scorer(url, tls=tls(files, name), token=TOKEN, retry=Retry(connect_budget_s=0.3)) as scorer,
        pytest.raises(ServerUnavailableError),
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
    command = [
        *(sys.executable, ROOT / "export" / "to_triton.py", "rollback", url, "--to", "1"),
        *("--tls-ca", files / "issuer.pem", "--token", TOKEN),
        *("--tls-cert", files / "client.pem", "--tls-key", files / "client.key"),
    ]
    run = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    done = subprocess.run([*command, "--admin-key-file", files / "log.key"], **run)
    assert done.stdout == f"Version 1 is active at {url}.\n", done.stderr
    (files / "wrong.key").write_text("0" * 32)
    done = subprocess.run([*command, "--admin-key-file", files / "wrong.key"], **run)
    assert done.returncode == 1
    assert "requires its administrator key to change models" in done.stderr
