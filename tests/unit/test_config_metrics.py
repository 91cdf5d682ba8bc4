"""The keys of metrics: where they may be asked for, and what other hosts may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast.config.fingerprint import fingerprint
from carp_fast.config.load import Daemon
from carp_fast.config.model import MetricsAddress
from tests.support.configurations import HOST, fault_lines, read, warning_lines, write


def daemon(tmp_path: Path, lines: str) -> Daemon:
    return read(tmp_path, f"[daemon]\n{lines}\n{HOST}").daemon


def faults(tmp_path: Path, lines: str) -> list[str]:
    return fault_lines(write(tmp_path, f"[daemon]\n{lines}\n{HOST}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9112", MetricsAddress("127.0.0.1", 9112)),
        ("127.9.9.9:1", MetricsAddress("127.9.9.9", 1)),
        ("[::1]:65535", MetricsAddress("::1", 65_535)),
        ("[0:0::1]:80", MetricsAddress("::1", 80)),
        ("/run/carp-fast/metrics.sock", MetricsAddress(path=Path("/run/carp-fast/metrics.sock"))),
    ],
)
def test_places_that_only_this_host_reaches(
    tmp_path: Path, text: str, expected: MetricsAddress
) -> None:
    found = daemon(tmp_path, f'metrics = "{text}"').metrics
    assert found == expected
    assert found is not None
    assert found.is_local
    again = daemon(tmp_path, f'metrics = "{found}"').metrics
    assert again == found, "its text is the value of the key"


def test_without_the_key_there_are_none(tmp_path: Path) -> None:
    found = daemon(tmp_path, "")
    assert (found.metrics, found.metrics_detail, found.metrics_public) == (None, "interface", False)
    assert found.metrics_page


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9112",
        ":9112",
        "localhost:9112",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "::1:9112",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:9112 ",
        "[127.0.0.1]:1",
        "[::1]",
        "[]:1",
        "metrics.sock",
        "http://127.0.0.1:9112",
        "127.0.0.1:\u0661",
    ],
)
def test_other_values_are_faults_that_name_what_is_allowed(tmp_path: Path, text: str) -> None:
    (fault,) = faults(tmp_path, f'metrics = "{text}"')
    assert fault.startswith(f'FILE: daemon: metrics = "{text}": ')
    assert '"127.0.0.1:9112" or "[::1]:9112", or an absolute path' in fault


def test_a_path_has_the_kernels_limit(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, f'metrics = "/{"x" * 107}"')
    assert fault.endswith("is too long; allowed: at most 107 bytes")


@pytest.mark.parametrize("text", ["0.0.0.0:9112", "192.0.2.1:9112", "[::]:9112", "[fe80::1]:1"])
def test_a_place_that_other_hosts_reach_is_refused_unless_it_is_public(
    tmp_path: Path, text: str
) -> None:
    assert faults(tmp_path, f'metrics = "{text}"') == [
        f'FILE: daemon: metrics = "{text}": other hosts could read them; allowed: an address of'
        " 127.0.0.0/8, [::1], the path of a Unix socket, or metrics_public = true besides"
    ]
    for page, why in (("true", ", and on the page why"), ("false", "")):
        keys = f'metrics = "{text}"\nmetrics_public = true\nmetrics_page = {page}\n'
        configuration = read(tmp_path, f"[daemon]\n{keys}{HOST}")
        assert warning_lines(configuration.path, configuration.warnings) == [
            f'FILE: daemon: metrics = "{text}": anyone who reaches this address may read which'
            f" virtual hosts are where{why}"
        ]


@pytest.mark.parametrize("lines", ["", 'metrics = "[::1]:9112"\n'])
def test_public_metrics_that_are_none_are_warned_about(tmp_path: Path, lines: str) -> None:
    configuration = read(tmp_path, f"[daemon]\n{lines}metrics_public = true\n{HOST}")
    (line,) = warning_lines(configuration.path, configuration.warnings)
    assert line.endswith(
        "metrics_public = true: has no effect: metrics are not offered to other hosts"
    )


def test_a_wrong_place_is_not_warned_about_as_well(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "metrics = 1\nmetrics_public = true")) == 1


# --- the digest of a configuration ----------------------------------------------------------------


def test_the_digest_is_of_what_a_configuration_says(tmp_path: Path) -> None:
    first = fingerprint(read(tmp_path, HOST))
    assert first == fingerprint(read(tmp_path, f"# a remark\n\n{HOST}"))
    assert len(first) == 64
    for other in (
        HOST.replace("vhid = 7", "vhid = 8"),
        f"{HOST}advskew = 1\n",
        f"[daemon]\nhook_concurrency = 3\n{HOST}",
        HOST.replace(".10/24", ".11/24"),
        f'{HOST}track = ["x"]\n[[track]]\nname = "x"\nkind = "file"\npath = "/x"\n',
    ):
        assert fingerprint(read(tmp_path, other)) != first


def test_the_digest_leaves_out_secrets(tmp_path: Path) -> None:
    first = fingerprint(read(tmp_path, HOST))
    assert fingerprint(read(tmp_path, HOST.replace("k3Jx9QpL2mZt", "q8Lw2NvB7yHs"))) == first
