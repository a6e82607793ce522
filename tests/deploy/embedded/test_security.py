"""Options of the embedded server that say who may talk to it, before anything starts."""

import pytest
import trustme

from embedded.errors import ServeError
from embedded.security import CLOSED_HEADER, Security

TOKEN = "a-token-of-24-characters"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """PEM files of two certificates, and tokens."""
    folder = tmp_path_factory.mktemp("files")
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(folder / "issuer.pem")
    for name in ("one", "two"):
        certificate = issuer.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    for name, text in {"token": f"{TOKEN}\n", "short": "abc", "odd": "x" * 20 + ":="}.items():
        (folder / name).write_text(text)
    (folder / "binary").write_bytes(b"\xff\xfe" * 20)
    return folder


def test_by_default_scoring_is_open_over_grpc_alone():
    security = Security()
    grpc, admin, http = security.options("secret")
    assert "inference" not in grpc
    assert admin == "--grpc-restricted-protocol=model-repository:admin-key=secret"
    assert http.startswith("--http-restricted-api=")
    for service in ("inference", "model-repository", "shared-memory", "trace", "logging"):
        assert service in http
    for option in (grpc, http):
        assert option.endswith(f":{CLOSED_HEADER}={security.closed_key}")
    assert Security().closed_key != security.closed_key


def test_everything_is_passed_on(files):
    pem = files / "one.pem", files / "one.key", files / "issuer.pem"
    security = Security.read(*pem, files / "token")
    options = security.options("secret")
    assert "--grpc-use-ssl-mutual=1" in options
    assert f"--grpc-root-cert={pem[2]}" in options
    assert any(option.endswith(f":authorization=Bearer {TOKEN}") for option in options)
    assert TOKEN not in repr(security)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("one.pem", None, None, None), "Only one of --tls-cert and --tls-key"),
        ((None, None, "issuer.pem", None), "needs the server's own"),
        (("one.pem", "two.key", None, None), "belongs to the certificate"),
        (("token", "one.key", None, None), "give PEM files"),
        (("one.pem", "one.key", "token", None), "give PEM files"),
        ((None, None, None, "short"), "has 3 characters; expected 16"),
        ((None, None, None, "odd"), "has 22 characters"),
        ((None, None, None, "binary"), "cannot be read"),
    ],
)
def test_what_cannot_work_is_said_before_the_start(files, given, message):
    with pytest.raises(ServeError, match=message):
        Security.read(*(None if name is None else files / name for name in given))
