"""What a client of the metrics accepts, by its headers."""

from __future__ import annotations

import pytest

from carp_fast.metrics.negotiation import (
    ITEMS_MAX,
    accepts_gzip,
    format_for,
    is_address_host,
    is_loopback_host,
)

# As Prometheus 2.42 and 3.2 send it.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "text"),
        ("", "text"),
        ("*/*", "text"),
        ("text/*", "text"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text"),
        ("text/plain", "text"),
        ("text/plain; version=0.0.4", "text"),
        ("application/openmetrics-text", "openmetrics"),
        ('Application/OpenMetrics-Text; Version="1.0.0"; charset=utf-8', "openmetrics"),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", "openmetrics"),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", "text"),
        ("application/openmetrics-text;q=0,text/plain", "text"),
        (PROMETHEUS_2, "openmetrics"),
        (PROMETHEUS_3, "openmetrics"),
        ("application/openmetrics-text;version=2.0.0", None),
        ("application/openmetrics-text;version=2.0.0,*/*;q=0.1", "text"),
        ("text/plain;version=1.0.0", None),
        ("application/json", None),
        ("text/plain;q=0", None),
        ("text/plain;q=nan", None),
        ("text/plain;q=1.5", None),
        (";;;,,;q=", None),
    ],
)
def test_a_client_gets_the_format_that_it_prefers(accept: str | None, expected: str | None) -> None:
    assert format_for(accept) == expected


def test_what_follows_many_items_is_not_looked_at() -> None:
    assert format_for("a/b," * ITEMS_MAX + "text/plain") is None
    assert format_for("a/b," * (ITEMS_MAX - 1) + "text/plain") == "text"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP;q=0.1", True),
        ("deflate, x-gzip", True),
        ("*", True),
        ("gzip;q=0, *", False),
        ("br, *;q=0", False),
        ("gzip;q=0.000", False),
    ],
)
def test_gzip_is_for_those_that_accept_it(header: str | None, expected: bool) -> None:
    assert accepts_gzip(header) == expected


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9112",
        "localhost.:1",
        "127.0.0.1",
        "127.8.9.1:80",
        "[::1]",
        "[::1]:9",
    ],
)
def test_loopback_hosts_are_of_this_host(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":9112",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "[2001:db8::1]",
        "[127.0.0.1]",
        "[::1",
        "127.1",
        "2130706433",
        "localhost:99999",
        "localhost:abc",
        "lo\u212aalhost",
        "127.0.0.\u0661",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert not is_loopback_host(host)


@pytest.mark.parametrize(
    "host", ["localhost:1", "192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:9112", "127.0.0.1"]
)
def test_addresses_and_localhost_cannot_be_resolved_to_something_else(host: str) -> None:
    assert is_address_host(host)


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "2001:db8::1", "1"])
def test_names_may_be_anybodys(host: str) -> None:
    assert not is_address_host(host)
