"""Why a digest is wrong: one sender for each explanation, signed by the standard library."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from carp_fast.capture import digests
from carp_fast.capture import judge as verdicts
from carp_fast.capture.digests import SUBSET_ADDRESSES_MAX, Guess, Signer
from carp_fast.capture.judge import Finding, Judge, signer_of
from carp_fast.config.model import Origin, Settings, VirtualHost
from carp_fast.engine._wire import parse
from carp_fast.inet import address_bytes

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "golden.json").read_text()
)
COUNTER = bytes.fromhex("0123456789abcdef")
MAC = bytes.fromhex("02bd00000001")
HEAD = b"\x02\x01\x2a"
SECRET = b"correct horse"
NINETEEN = b"nineteen bytes long"


def addresses(*texts: str) -> tuple[bytes, ...]:
    return tuple(map(address_bytes, texts))


A, B, C = addresses("10.0.0.10", "10.0.0.9", "10.0.1.2")
SIX, SEVEN = addresses("2001:db8::10", "2001:db8::9")
LOCAL = addresses("fe80::5e:1")[0]


def heard(message: bytes, passphrase: bytes = SECRET, **fields: Any) -> dict[str, Any]:
    """An advertisement for vhid 42 that is right but for what its digest was made with."""
    digest = hmac.new(passphrase.ljust(20, b"\0"), message + COUNTER, hashlib.sha1).digest()
    return {
        "verdict": "ok",
        "family": 4,
        "version": 2,
        "vhid": 42,
        "source": addresses("10.0.0.1")[0],
        "destination": addresses("224.0.0.18")[0],
        "source_mac": MAC,
        "counter": COUNTER,
        "digest": digest,
    } | fields


def signer(*signed: bytes, vhid: int = 42, line: int = 3, **fields: Any) -> Signer:
    wanted: dict[str, Any] = {
        "host": f"eth0/{vhid}",
        "table": f"virtual_host[{(line + 1) // 4}] (line {line})",
        "interface": "eth0",
        "vhid": vhid,
        "passphrase": SECRET,
        "addresses": signed,
    }
    return Signer(**(wanted | fields))


OTHER = signer(C, vhid=43, line=7, passphrase=b"another")


class Case(NamedTuple):
    """What a host of ours is configured with, what a sender signed, and what is said of it."""

    ours: Signer
    message: bytes
    said: str
    passphrase: bytes = SECRET
    others: tuple[Signer, ...] = (OTHER,)


CASES = {
    "another passphrase of the file": Case(
        signer(A), HEAD + A, "for passphrase of virtual_host[2] (line 7)", b"another"
    ),
    "one address": Case(
        signer(A, C),
        HEAD + A,
        "without 10.0.1.2 (ucarp signs exactly one address: move the rest to unsigned_addresses)",
    ),
    "an address too many": Case(
        signer(A, B, C),
        HEAD + A + C,
        "without 10.0.0.9 (add it on the sender, or move it to unsigned_addresses)",
    ),
    "an unsigned address": Case(
        signer(A, unsigned=(B, C)),
        HEAD + B + A,
        "with 10.0.0.9 of unsigned_addresses (move it to addresses)",
    ),
    "all unsigned addresses": Case(
        signer(A, unsigned=(B, C)),
        HEAD + B + A + C,
        "with 10.0.0.9, 10.0.1.2 of unsigned_addresses (move them to addresses)",
    ),
    "one for another": Case(
        signer(A, unsigned=(B,)),
        HEAD + B,
        "without 10.0.0.10 and with 10.0.0.9 of unsigned_addresses"
        " (sign the same addresses here and there)",
    ),
    "IPv4 alone": Case(
        signer(B, A, SIX, SEVEN),
        HEAD + B + A,
        "without the IPv6 addresses (add them on the sender, or move them to unsigned_addresses)",
    ),
    "IPv6 alone": Case(
        signer(A, B, SIX),
        HEAD + SIX,
        "without the IPv4 addresses (add them on the sender, or move them to unsigned_addresses)",
    ),
    "as written": Case(
        signer(SIX, A, B),
        HEAD + SIX + A + B,
        "for the addresses in the order of the file (the sender does not sort them)",
    ),
    "families sorted, addresses not": Case(
        signer(SIX, A, B),
        HEAD + A + B + SIX,
        "for the addresses sorted only by family (the sender does not sort them)",
    ),
    "IPv6 first": Case(
        signer(B, A, SEVEN, SIX),
        HEAD + SEVEN + SIX + B + A,
        "for the addresses with IPv6 before IPv4 (the sender signs them in the wrong order)",
    ),
    "host byte order": Case(
        signer(A, B, C),
        HEAD + C + B + A,
        "for the addresses sorted from their last byte"
        " (the sender compares them in its own byte order)",
    ),
    "a duplicate": Case(
        signer(B, A),
        HEAD + B + A + A,
        "with 10.0.0.10 twice (the sender holds it twice: remove one there)",
    ),
    "scope bytes kept": Case(
        signer(A, LOCAL),
        HEAD + A + LOCAL[:2] + b"\0\7" + LOCAL[4:],
        "with 7 in bytes 2 and 3 of the link-local addresses"
        " (the sender signs its interface number, which must be zero)",
    ),
    "no address": Case(
        signer(A), HEAD, "without any address (the sender has none: add them there)"
    ),
    "lladdr": Case(
        signer(A),
        HEAD[:2] + MAC + HEAD[2:] + A,
        "with lladdr 02:bd:00:00:00:01, which OpenBSD signs where it is the carp interface's own"
        ' (set dialect = "openbsd" and lladdr = "02:bd:00:00:00:01")',
    ),
    "no lladdr": Case(
        signer(A, lladdr=b"\2\0\0\0\0\5"),
        HEAD + A,
        "without lladdr 02:00:00:00:00:05 (remove it here, or set it on the sender)",
    ),
    "Scapy": Case(
        signer(A),
        b"\x21\x2a" + A,
        "for version and type in one byte, 0x21, as Scapy signs (the sender must sign 02 01)",
    ),
    "another's addresses": Case(
        signer(A),
        HEAD + C,
        "with the addresses of eth0/43, virtual_host[2] (line 7) (exchange them here or there)",
    ),
    "a passphrase cut": Case(
        signer(A),
        HEAD + A,
        "for the first 7 bytes of the passphrase (the sender truncates it: set it there again)",
        SECRET[:7],
    ),
    "a passphrase not cut": Case(
        signer(A, passphrase=NINETEEN),
        HEAD + A,
        "for a passphrase of 20 bytes that begins with this one of 19 (shorten it on the sender)",
        NINETEEN + b"\xfe",
    ),
    "a carriage return": Case(
        signer(A),
        HEAD + A,
        "for the passphrase with a carriage return after it (remove it on the sender)",
        SECRET + b"\r",
    ),
    "a line end": Case(
        signer(A),
        HEAD + A,
        "for the passphrase with a newline after it (remove it on the sender)",
        SECRET + b"\n",
    ),
    "quotes": Case(
        signer(A),
        HEAD + A,
        "for the passphrase in quotes (remove them on the sender)",
        b'"' + SECRET + b'"',
    ),
    "blanks": Case(
        signer(A, passphrase=SECRET + b" "),
        HEAD + A,
        "for the passphrase without the blanks around it (remove them here)",
    ),
    "no passphrase": Case(
        signer(A), HEAD + A, "for no passphrase at all (set one on the sender)", b""
    ),
    "two causes": Case(
        signer(B, A, C),
        HEAD + B + C,
        "for passphrase of virtual_host[2] (line 7) and without 10.0.0.10"
        " (add it on the sender, or move it to unsigned_addresses)",
        b"another",
    ),
    "lladdr and one address": Case(
        signer(B, A),
        HEAD[:2] + MAC + HEAD[2:] + A,
        "with lladdr 02:bd:00:00:00:01, which OpenBSD signs where it is the carp interface's own"
        ' (set dialect = "openbsd" and lladdr = "02:bd:00:00:00:01") and without 10.0.0.9'
        " (ucarp signs exactly one address: move the rest to unsigned_addresses)",
    ),
    "another interface's": Case(
        signer(A),
        HEAD + C,
        "for eth1/42, virtual_host[2] (line 7), which is on another interface"
        " (one of them is misplaced)",
        b"another",
        (signer(C, line=7, passphrase=b"another", interface="eth1", host="eth1/42"),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_would_make_it_right(name: str) -> None:
    case = CASES[name]
    judge = Judge([case.ours, *case.others])
    advertisement = heard(case.message, case.passphrase)
    found = judge.judge(advertisement, "eth0")
    assert found == Finding("bad_auth", f"digest right {case.said}")
    assert not any(each in str(found) for each in ("correct", "another'", "nineteen"))
    # The next one is known at once, and with the right configuration there is nothing to say.
    assert judge.judge(advertisement, "eth0") == found
    assert judge.unexplained == 0


def subset_of_thirteen(written: list[bytes]) -> Iterator[tuple[tuple[bytes, ...], str]]:
    yield (*written[:4], *written[5:]), "without 10.1.0.4 "
    yield (written[6],), "without 10.1.0.0, 10.1.0.1, 10.1.0.2, 10.1.0.3 and 8 more "
    yield tuple(written[:9]), "without 10.1.0.9, 10.1.0.10, 10.1.0.11, 10.1.0.12 "


def test_subsets_of_many_addresses() -> None:
    written = [bytes((10, 1, 0, i)) for i in range(SUBSET_ADDRESSES_MAX + 1)]
    judge = Judge([signer(*written)])
    for chosen, said in subset_of_thirteen(written):
        found = judge.judge(heard(HEAD + b"".join(chosen)))
        assert found.why is not None
        assert found.why.startswith(f"digest right {said}")
    # Of twelve any subset.
    twelve = Judge([signer(*written[:12])])
    found = twelve.judge(heard(HEAD + b"".join(written[i] for i in (0, 3, 4, 7, 11))))
    assert found.why is not None
    assert "without 10.1.0.1, 10.1.0.2, 10.1.0.5, 10.1.0.6 and 3 more" in found.why


def test_which_virtual_host_it_is_about_is_said_where_there_are_several() -> None:
    second = signer(C, B, interface="eth1", host="eth1/42", line=7)
    judge = Judge([signer(A), second])
    assert judge.judge(heard(HEAD + B + C)).verdict == "ok"
    assert judge.judge(heard(HEAD + B)).why == (
        "digest right for eth1/42 and without 10.0.1.2"
        " (ucarp signs exactly one address: move the rest to unsigned_addresses)"
    )


def test_interfaces_count_where_the_configuration_has_them() -> None:
    judge = Judge([signer(A), signer(C, interface="eth1", host="eth1/42")])
    right = heard(HEAD + A)
    assert [judge.judge(right, name).verdict for name in ("eth0", "eth1", "eth9", None)] == [
        "ok",
        "bad_auth",
        "ok",
        "ok",
    ]


def test_an_unknown_vhid() -> None:
    found = Judge([OTHER]).judge(heard(HEAD + C, b"another"))
    assert found == Finding(
        "bad_vhid",
        "digest right for all of eth0/43, virtual_host[2] (line 7), but its vhid 43 (make it 42)",
    )
    assert Judge([OTHER]).judge(heard(HEAD + A)) == Finding("bad_vhid", None)


def test_another_destination_explains_a_right_digest() -> None:
    judge = Judge([signer(A, groups=addresses("239.1.1.1"))])
    assert judge.judge(heard(HEAD + A)) == Finding(
        "bad_destination",
        "digest right for eth0/42, but it takes what is sent to 239.1.1.1, not to 224.0.0.18"
        " (give it and the sender the same destination)",
    )
    assert judge.judge(heard(HEAD + B)) == Finding("bad_destination", None)


def test_a_unicast_is_taken_from_a_listed_peer() -> None:
    peer, other, to = addresses("10.0.0.1", "10.0.0.2", "10.0.0.3")
    judge = Judge([signer(A, groups=(), peers=(peer,))])
    assert judge.judge(heard(HEAD + A, source=peer, destination=to)) == Finding("ok")
    assert judge.judge(heard(HEAD + A, source=other, destination=to)) == Finding(
        "bad_source", "10.0.0.2 is not among the peers of eth0/42: add it"
    )
    assert Judge([signer(A)]).judge(heard(HEAD + A, destination=to)).verdict == "bad_destination"


def test_version_3_is_ours_by_its_digest_alone() -> None:
    judge = Judge([signer(A)])
    assert judge.judge(heard(HEAD + A, version=3)) == Finding("bad_version")
    assert judge.judge(heard(HEAD + B, version=3)) == Finding("vrrp")


def test_what_the_wire_says_comes_first() -> None:
    judge = Judge([signer(A)])
    assert judge.judge(heard(HEAD + A, verdict="bad_ttl")) == Finding("bad_ttl")


def test_what_nothing_explains_is_looked_into_again_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = Judge([signer(A)])
    searches: list[tuple[Any, ...]] = []
    real = digests.guesses

    def counted(*given: Any) -> Any:
        searches.append(given)
        return real(*given)

    monkeypatch.setattr(verdicts, "guesses", counted)
    monkeypatch.setattr(verdicts, "TRIES_EACH", 10)
    wrong = heard(HEAD + A, b"nobody knows")
    assert judge.judge(wrong) == Finding("bad_auth", None)
    tried = sum(1 for _ in real(*searches[0]))
    for _ in range(tried // 10):
        judge.judge(wrong)
    assert len(searches) == 1
    judge.judge(wrong)
    assert len(searches) == 2
    assert (judge.unexplained, judge.not_searched) == (1, 0)
    monkeypatch.setattr(verdicts, "UNEXPLAINED_MAX", 1)
    assert judge.judge(wrong | {"source": B}) == Finding("bad_auth", None)
    assert (len(searches), judge.unexplained, judge.not_searched) == (2, 1, 1)
    # Once its sender has been set right in part, it is explained, and none is unexplained.
    monkeypatch.setattr(verdicts, "TRIES_EACH", 10_000)
    for _ in range(tried // 10 + 1):
        judge.judge(wrong)
    found = judge.judge(heard(HEAD + A, SECRET[:3]))
    assert found.why is not None
    assert judge.unexplained == 0


def test_a_search_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    real = digests.guesses

    def counted(*given: Any) -> Iterator[Guess]:
        nonlocal tried
        for guess in real(*given):
            tried += 1
            yield guess

    monkeypatch.setattr(verdicts, "guesses", counted)
    monkeypatch.setattr(verdicts, "TRIES_MAX", 5_000)
    monkeypatch.setattr(verdicts, "OTHER_HOSTS_MAX", 10)
    written = [bytes((10, 1, 0, i)) for i in range(SUBSET_ADDRESSES_MAX)]
    hosts = [signer(*written), *(signer(A, vhid=vhid, passphrase=b"x%d" % vhid) for vhid in (1, 2))]
    assert Judge(hosts).judge(heard(HEAD, b"nobody knows")) == Finding("bad_auth", None)
    assert tried == 5_000


def test_only_so_many_others_lend_their_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "OTHER_HOSTS_MAX", 10)
    others = [signer(C, vhid=100 + i, passphrase=b"number %d" % i) for i in range(10)]
    judge = Judge([signer(A), *others])
    assert judge.judge(heard(HEAD + A, b"number 8")).why is not None
    assert judge.judge(heard(HEAD + A, b"number 9")).why is None


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda v: f"{v['implementation'][:7]}-{v['case']}")
def test_golden_frames_are_ok_for_their_own_configuration(vector: dict[str, Any]) -> None:
    ours = signer(
        *addresses(*vector["ipv4"], *vector["ipv6"]),
        vhid=vector["vhid"],
        passphrase=bytes.fromhex(vector["key"])[:20] or b"\0",
    )
    fields = parse(bytes.fromhex(vector["frame"]))
    assert Judge([ours]).judge(fields) == Finding("ok")
    for change in ({"vhid": vector["vhid"] % 255 + 1}, {"passphrase": b"\1"}):
        settings = {name: getattr(ours, name) for name in ("vhid", "passphrase")} | change
        wrong = signer(*ours.addresses, **settings)
        assert Judge([wrong]).judge(fields).verdict == (
            "bad_vhid" if "vhid" in change else "bad_auth"
        )


def golden(case: str, implementation: str, family: int = 4) -> dict[str, Any]:
    [*found] = (
        vector
        for vector in GOLDEN
        if vector["case"] == case
        and vector["implementation"].startswith(implementation)
        and vector["ip_version"] == family
    )
    return parse(bytes.fromhex(found[0]["frame"]))


def test_golden_frames_for_wrong_configurations() -> None:
    secret: dict[str, Any] = {"passphrase": b"secret"}
    address, six = addresses("10.77.0.100", "2001:db8::100")
    fewer = Judge([signer(address, six, LOCAL, **secret)])
    # FreeBSD signs a link-local address, OpenBSD leaves it out: neither is wrong.
    assert fewer.judge(golden("v4+v6", "OpenBSD")).verdict == "ok"
    assert Judge([signer(address, LOCAL, **secret)]).judge(
        golden("v4+linklocal", "FreeBSD", 6)
    ) == Finding("ok")
    assert fewer.judge(golden("v4+linklocal", "FreeBSD")).why == (
        "digest right without 2001:db8::100"
        " (add it on the sender, or move it to unsigned_addresses)"
    )
    assert fewer.judge(golden("one-v4", "FreeBSD")).why == (
        "digest right without the IPv6 addresses (ucarp signs exactly one address:"
        " move the rest to unsigned_addresses)"
    )
    # Twenty bytes of key, of which ifconfig and we hold nineteen.
    key = bytes.fromhex(next(v["key"] for v in GOLDEN if v["case"] == "key20"))
    longer = Judge([signer(address, vhid=255, passphrase=key[:19])])
    assert "20 bytes" in str(longer.judge(golden("key20", "OpenBSD")).why)
    # The parent's own MAC as lladdr is not signed.
    parent = Judge([signer(address, lladdr=MAC, **secret)])
    assert parent.judge(golden("lladdr-equals-parent-realmac", "OpenBSD")).why == (
        "digest right without lladdr 02:bd:00:00:00:01 (remove it here, or set it on the sender)"
    )
    # An IPv6 advertisement is for a virtual host that has an IPv6 address.
    four = signer_of(
        VirtualHost("eth0", 42, ("10.77.0.100/24",), (), Settings(passphrase=b"secret"))
    )
    assert Judge([four]).judge(golden("v4+v6", "OpenBSD", 6)) == Finding(
        "bad_vhid", "eth0/42 signs no IPv6 address, so nothing over IPv6 is for it"
    )
    peers = signer(address, address_bytes("2001:db8::100"), groups=(), peers=addresses("10.0.0.1"))
    assert Judge([peers]).judge(golden("v4+v6", "OpenBSD", 6)) == Finding(
        "bad_vhid", "eth0/42 has no IPv6 peer, so nothing over IPv6 is for it"
    )


AUTOMATIC = addresses("fe80::200:5eff:fe00:12a")[0]
REFUSED_BY_OPENBSD = (
    "signed with link-local fe80::5e:1 as FreeBSD and NetBSD do; OpenBSD refuses that because its"
    ' carp interface also has fe80::200:5eff:fe00:12a (set dialect = "openbsd" on its sender)'
)
AS_OPENBSD = (
    "as OpenBSD accepts it and FreeBSD and NetBSD do not; OpenBSD refuses what dialect {dialect}"
    ' sends (set dialect = "openbsd" here)'
)
WITHOUT = f"signed without link-local fe80::5e:1 {AS_OPENBSD}"
WITH_AUTOMATIC = (
    "signed with link-local fe80::200:5eff:fe00:12a, which OpenBSD's carp interface also has,"
    f" {AS_OPENBSD}"
)


@pytest.mark.parametrize(
    ("dialect", "without", "configured", "automatic"),
    [
        ("openbsd", None, REFUSED_BY_OPENBSD, None),
        ("ucarp", WITHOUT, None, WITH_AUTOMATIC),
        ("freebsd", WITHOUT, None, WITH_AUTOMATIC),
    ],
)
def test_a_right_digest_that_another_implementation_refuses(
    dialect: str, without: str | None, configured: str | None, automatic: str | None
) -> None:
    judge = Judge([signer(A, LOCAL, dialect=dialect)])
    assert LOCAL < AUTOMATIC
    for body, why in ((A, without), (A + LOCAL, configured), (A + LOCAL + AUTOMATIC, automatic)):
        expected = why and why.format(dialect=f'"{dialect}"')
        assert judge.judge(heard(HEAD + body)) == Finding("ok", expected)


def test_a_digest_over_the_automatic_address_is_explained_with_another_cause() -> None:
    judge = Judge([signer(LOCAL, dialect="openbsd"), OTHER])
    body = b"".join(sorted((LOCAL, AUTOMATIC)))
    six: dict[str, Any] = {"family": 6, "destination": addresses("ff02::12")[0]}
    assert judge.judge(heard(HEAD + body, **six)) == Finding("ok")
    assert judge.judge(heard(HEAD + body, b"another", **six)) == Finding(
        "bad_auth", "digest right for passphrase of virtual_host[2] (line 7)"
    )


def test_a_signer_is_made_of_a_virtual_host() -> None:
    origin = Origin("/etc/x/conf.d/a.toml", "virtual_host[2]", 9)
    settings = Settings(passphrase=SECRET, destination="239.1.1.1", origin=origin)
    host = VirtualHost("eth0", 42, ("10.0.0.10/24",), ("10.0.0.9/32",), settings)
    made = signer_of(host, "/etc/x/carp-fast.toml")
    assert (made.host, made.table) == ("eth0/42", "/etc/x/conf.d/a.toml:9: virtual_host[2]")
    assert (made.addresses, made.unsigned) == ((A,), (B,))
    assert (made.groups, made.peers, made.lladdr) == (addresses("239.1.1.1"), (), None)
    assert made.dialect == "ucarp"
    assert signer_of(host, origin.file).table == "virtual_host[2] (line 9)"
    assert "horse" not in repr(made)


def test_a_signer_of_both_families_and_of_peers() -> None:
    settings = Settings(passphrase=SECRET, destination6="ff02::99", lladdr="02:bd:00:00:00:01")
    signed = ("10.0.0.10/24", "2001:db8::10/64")
    made = signer_of(VirtualHost("eth0", 42, signed, (), settings))
    assert (made.addresses, made.lladdr) == ((A, SIX), MAC)
    assert made.groups == addresses("224.0.0.18", "ff02::99")
    made = signer_of(VirtualHost("eth0", 42, signed[:1], (), settings))
    assert made.groups == addresses("224.0.0.18")
    peers = ("10.0.0.1", "2001:db8::1")
    made = signer_of(VirtualHost("eth0", 42, signed, (), Settings(passphrase=SECRET, peers=peers)))
    assert (made.groups, made.peers) == ((), addresses(*peers))
