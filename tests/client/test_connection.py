"""Settings of a channel."""

import pytest

from ma_agiqa_client import Tls
from ma_agiqa_client.connection import Connection, check_urls, is_loopback, proxy_advice


def test_headers_carry_the_token_and_the_metadata():
    connection = Connection(token="secret", metadata={"x-team": "images"})
    names = ("authorization", "triton-grpc-protocol-authorization")  # of proxies, of Triton itself
    assert connection.headers() == {"x-team": "images", **dict.fromkeys(names, "Bearer secret")}
    assert Connection().headers() == {}
    assert "secret" not in repr(connection)


def test_a_token_may_be_renewed():
    tokens = iter(["first", "second"])
    connection = Connection(token=lambda: next(tokens))
    sent = [connection.headers()["authorization"] for _ in range(2)]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("name", ["X-Team", "a b", "", "grpc-timeout", "ä"])
def test_headers_that_grpc_cannot_send_are_refused(name):
    with pytest.raises(ValueError, match="header"):
        Connection(metadata={name: "value"})


def test_compression_and_keepalive_are_checked():
    with pytest.raises(ValueError, match="gzip or deflate"):
        Connection(compression="brotli")
    with pytest.raises(ValueError, match="keepalive_s"):
        Connection(keepalive_s=0)


def test_keepalive_reaches_the_channel():
    assert ("grpc.keepalive_time_ms", 1500) in Connection(keepalive_s=1.5)._channel_args("a:1")
    names = [name for name, _ in Connection()._channel_args("a:1")]
    assert not any("keepalive" in name for name in names)


def test_calls_are_spread_over_the_addresses_of_a_name():
    assert ("grpc.lb_policy_name", "round_robin") in Connection()._channel_args("dns:///a:1")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8001", True),
        ("127.0.0.1:8001", True),
        ("[::1]:8001", True),
        ("dns:///localhost:8001", True),
        ("unix:/run/triton", True),
        ("triton.example.org:8001", False),
        ("dns:///triton:8001", False),
    ],
)
def test_what_is_on_this_machine(url, expected):
    assert is_loopback(url) is expected
    proxied = ("grpc.enable_http_proxy", 0) not in Connection()._channel_args(url)
    assert proxied is not expected


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"http_proxy": "p:1"}, "http_proxy"),
        ({"http_proxy": "p:1", "grpc_proxy": "p:1"}, "grpc_proxy"),
        ({"https_proxy": "p:1", "no_proxy": "a, example.org"}, None),
        ({}, None),
    ],
)
def test_the_proxy_that_calls_go_through_is_named(monkeypatch, variables, named):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    advice = proxy_advice("triton.example.org:8001")
    assert (f"{named} names" in advice) if named else (advice == "")
    assert proxy_advice("localhost:8001") == ""


@pytest.mark.parametrize("urls", [[], ["a:1", "a:1"], ["a:1", "http://b:1"], "", "a:99999", "a"])
def test_addresses_are_checked(urls):
    with pytest.raises(ValueError, match="address"):
        check_urls(urls)


def test_one_or_several_addresses():
    assert check_urls(" a:1/ ") == ("a:1",)
    assert check_urls(["a:1", "b:1"]) == ("a:1", "b:1")


def test_a_certificate_needs_its_key():
    with pytest.raises(ValueError, match="both or neither"):
        Tls(certificate_chain="client.pem")


def test_a_certificate_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pem.*root_certificates.*No such file"):
        Tls(root_certificates=tmp_path / "absent.pem").credentials()
