"""Explains wrong digests by guessing the settings and faults that would make them.

Holds what a virtual host signs with, and guesses at what a sender signed with: first those with
one cause, then with two, each with a sentence on what to change. Must not know frames, verdicts or
files. No sentence contains any part of a passphrase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple

from carp_fast.engine._prepared import (
    LINK_LOCAL,
    automatic_link_local,
    signed_forms,
    signed_message,
)
from carp_fast.inet import address_text, mac_text, virtual_mac

SUBSET_ADDRESSES_MAX = 12
"""All subsets of up to this many signed and unsigned addresses are tried. With more: the first ones
in the order of the file, each one alone, all but one, and each unsigned one added."""
SCOPES_MAX = 64
"""Highest interface number that is tried in bytes 2 and 3 of link-local addresses."""
NAMED_MAX = 4
"""Names listed in a sentence; further ones are counted."""

PASSPHRASE_BYTES = 19  # BSD's ifconfig truncates to this; the kernels' field has one more
LINE_ENDS = (
    (b"\n", "a newline"),
    (b"\r", "a carriage return"),  # ucarp does not remove it from the line of a passfile
    (b"\r\n", "a Windows line end"),
)
GROUPS = (bytes((224, 0, 0, 18)), bytes.fromhex("ff02" + "00" * 13 + "12"))


@dataclass(frozen=True, slots=True, eq=False)
class Signer:
    """What a virtual host signs with and listens to. Addresses are 4 or 16 bytes, in file order.

    `host`: its name ("eth0/42"); `table`: its place in the file ("virtual_host[2] (line 17)").
    """

    host: str
    table: str
    interface: str
    vhid: int
    passphrase: bytes = field(repr=False)
    addresses: tuple[bytes, ...]
    unsigned: tuple[bytes, ...] = ()
    groups: tuple[bytes, ...] = GROUPS
    peers: tuple[bytes, ...] = ()
    lladdr: bytes | None = None
    dialect: str = "ucarp"

    def forms(self) -> list[tuple[str, bytes]]:
        """(form, message) of each valid digest, see signed_forms(); the one that it sends first."""
        return signed_forms(self.vhid, self.addresses, dialect=self.dialect, lladdr=self.lladdr)

    @property
    def place(self) -> str:
        return f"{self.host}, {self.table}"


Phrase = str | Callable[[], str]


class Guess(NamedTuple):
    """What a digest may have been made with, and phrases for the differences."""

    passphrase: bytes
    message: bytes
    said: tuple[Phrase, ...]

    @property
    def sentence(self) -> str:
        """The explanation of a digest for which this guess is right."""
        words = (each if isinstance(each, str) else each() for each in self.said)
        return f"digest right {' and '.join(words)}"


Form = tuple[bytes, Phrase]  # a part of the message or the passphrase, and how it differs


def listed(names: Sequence[str]) -> str:
    """Names as part of a sentence; after NAMED_MAX names only the number of others."""
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def guesses(
    hosts: Sequence[Signer], others: Sequence[Signer], vhid: int, mac: bytes | None
) -> Iterator[Guess]:
    """Guesses at what an advertisement for `vhid` from `mac` was signed with, likely ones first.

    `hosts`: the virtual hosts that it should match, maybe none; the passphrases and addresses of
    `others` are tried as well.
    """
    passphrases = {signer: list(_passphrases(signer, others)) for signer in hosts}
    for stage in (_one_cause, _few_addresses, partial(_other_addresses, others), _subsets):
        for signer in hosts:
            yield from _named(signer, hosts, stage(signer, vhid, mac, passphrases[signer]))
    for other in others:
        if other not in hosts:
            yield from _as_other(other, vhid)
    for signer in hosts:
        yield from _named(signer, hosts, _two_causes(signer, vhid, mac, passphrases[signer]))


def _named(signer: Signer, hosts: Sequence[Signer], found: Iterable[Guess]) -> Iterable[Guess]:
    """Adds the name of the virtual host to each guess if there are several candidates."""
    if len(hosts) == 1:
        return found
    return (guess._replace(said=(f"for {signer.host}", *guess.said)) for guess in found)


# --- the stages ---------------------------------------------------------------------------------


def _one_cause(
    signer: Signer, vhid: int, mac: bytes | None, passphrases: list[Form]
) -> Iterator[Guess]:
    (own, _), *heads = _heads(signer, vhid, mac)
    for body in _bodies(signer, signer.addresses):
        for head, said in heads:
            yield Guess(signer.passphrase, head + body, (said,))
        for passphrase, said in passphrases:
            yield Guess(passphrase, own + body, (said,))


def _few_addresses(
    signer: Signer, vhid: int, mac: bytes | None, passphrases: list[Form]
) -> Iterator[Guess]:
    own = _heads(signer, vhid, mac)[0][0]
    for body, said in _variations(signer):
        yield Guess(signer.passphrase, own + body, (said,))


def _other_addresses(
    others: Sequence[Signer], signer: Signer, vhid: int, mac: bytes | None, passphrases: list[Form]
) -> Iterator[Guess]:
    own = _heads(signer, vhid, mac)[0][0]
    for other in others:
        if other is not signer:
            said = f"with the addresses of {other.place} (exchange them here or there)"
            for body in _bodies(other, other.addresses):
                yield Guess(signer.passphrase, own + body, (said,))


def _subsets(
    signer: Signer, vhid: int, mac: bytes | None, passphrases: list[Form]
) -> Iterator[Guess]:
    own = _heads(signer, vhid, mac)[0][0]
    for body, said in _selections(signer):
        yield Guess(signer.passphrase, own + body, (said,))


def _as_other(other: Signer, vhid: int) -> Iterator[Guess]:
    """Guesses that all but the vhid is that of another virtual host."""
    said = f"for {other.place}, which is on another interface (one of them is misplaced)"
    if other.vhid != vhid:
        said = f"for all of {other.place}, but its vhid {other.vhid} (make it {vhid})"
    head = _heads(other, vhid, None)[0][0]
    for body in _bodies(other, other.addresses):
        yield Guess(other.passphrase, head + body, (said,))


def _two_causes(
    signer: Signer, vhid: int, mac: bytes | None, passphrases: list[Form]
) -> Iterator[Guess]:
    (own, _), *heads = _heads(signer, vhid, mac)
    for forms in (_variations, _selections):
        for head, said_head in heads:
            for body, said in forms(signer):
                yield Guess(signer.passphrase, head + body, (said_head, said))
        for passphrase, said_passphrase in passphrases:
            for body, said in forms(signer):
                yield Guess(passphrase, own + body, (said_passphrase, said))


# --- forms of the parts -------------------------------------------------------------------------


def _heads(signer: Signer, vhid: int, mac: bytes | None) -> list[Form]:
    """Forms of the part before the addresses; the valid one comes first."""
    usual = bytes((2, 1, vhid))
    heads: list[Form] = [(usual, "")]
    if signer.lladdr:
        heads = [(bytes((2, 1)) + signer.lladdr + usual[2:], "")]
        said = f"without lladdr {mac_text(signer.lladdr)} (remove it here, or set it on the sender)"
        heads.append((usual, said))
    if mac and mac != signer.lladdr:
        said = (
            f"with lladdr {mac_text(mac)}, which OpenBSD signs where it is the carp interface's"
            f' own (set dialect = "openbsd" and lladdr = "{mac_text(mac)}")'
        )
        heads.append((bytes((2, 1)) + mac + usual[2:], said))
    said = "for version and type in one byte, 0x21, as Scapy signs (the sender must sign 02 01)"
    heads.append((bytes((0x21, vhid)), said))
    return heads


def _passphrases(signer: Signer, others: Iterable[Signer]) -> Iterator[Form]:
    """Other passphrases of the file, then common corruptions of the right one."""
    own = signer.passphrase
    seen = {own}
    for other in others:
        if other.passphrase not in seen:
            seen.add(other.passphrase)
            yield other.passphrase, f"for passphrase of {other.table}"
    for added, what in LINE_ENDS:
        if len(own + added) <= PASSPHRASE_BYTES + 1:
            yield own + added, f"for the passphrase with {what} after it (remove it on the sender)"
    for mark in (b'"', b"'"):
        if len(own) + 2 <= PASSPHRASE_BYTES + 1:
            yield mark + own + mark, "for the passphrase in quotes (remove them on the sender)"
    if own.strip() not in (own, b""):
        yield own.strip(), "for the passphrase without the blanks around it (remove them here)"
    for length in range(len(own) - 1, 0, -1):
        said = (
            f"for the first {length} bytes of the passphrase (the sender truncates it: set it there"
            " again)"
        )
        yield own[:length], said
    yield b"\0", "for no passphrase at all (set one on the sender)"
    if len(own) == PASSPHRASE_BYTES:
        for last in range(1, 256):
            yield (
                own + bytes((last,)),
                f"for a passphrase of 20 bytes that begins with this one of {PASSPHRASE_BYTES}"
                " (shorten it on the sender)",
            )


def _bodies(signer: Signer, addresses: Iterable[bytes]) -> list[bytes]:
    """Forms of the part after the vhid for these addresses; first that with link-local ones."""
    chosen = tuple(addresses)
    forms = signed_forms(signer.vhid, chosen, dialect=signer.dialect, lladdr=signer.lladdr)
    head = len(_heads(signer, signer.vhid, None)[0][0])
    bodies = (signed_message(0, chosen)[3:], *(message[head:] for _, message in forms))
    return list(dict.fromkeys(bodies))


def _variations(signer: Signer) -> Iterator[Form]:
    """Sets near the signed addresses: one family, unsigned ones added, other orders, and so on."""
    written = signer.addresses
    families = [tuple(each for each in written if len(each) == size) for size in (4, 16)]
    for chosen in families if all(families) else ():
        yield _bodies(signer, chosen)[0], partial(difference, signer, chosen)
    if signer.unsigned:
        chosen = written + signer.unsigned
        for body in _bodies(signer, chosen):
            yield body, partial(difference, signer, chosen)
    yield from _orders(signer)
    ordered = _split(_bodies(signer, written)[0], len(families[0]))
    for i, address in enumerate(ordered):
        said = f"with {address_text(address)} twice (the sender holds it twice: remove one there)"
        yield b"".join(chain(ordered[: i + 1], ordered[i:])), said
    yield from _scopes(ordered)
    yield b"", "without any address (the sender has none: add them there)"


def _orders(signer: Signer) -> Iterator[Form]:
    written = [_scoped(each, b"\0\0") for each in signer.addresses]
    four, six = (sorted(each for each in written if len(each) == size) for size in (4, 16))
    own = b"".join((*four, *six))
    orders: tuple[tuple[Iterable[bytes], str], ...] = (
        (written, "in the order of the file (the sender does not sort them)"),
        (sorted(written, key=len), "sorted only by family (the sender does not sort them)"),
        ((*six, *four), "with IPv6 before IPv4 (the sender signs them in the wrong order)"),
        (
            (*sorted(four, key=_reversed), *sorted(six, key=_reversed)),
            "sorted from their last byte (the sender compares them in its own byte order)",
        ),
    )
    for order, said in orders:
        body = b"".join(order)
        if body != own:
            yield body, f"for the addresses {said}"


def _scopes(ordered: list[bytes]) -> Iterator[Form]:
    if any(each.startswith(LINK_LOCAL) and len(each) == 16 for each in ordered):
        for scope in range(1, SCOPES_MAX + 1):
            body = b"".join(_scoped(each, scope.to_bytes(2)) for each in ordered)
            said = (
                f"with {scope} in bytes 2 and 3 of the link-local addresses (the sender signs its"
                " interface number, which must be zero)"
            )
            yield body, said


def _selections(signer: Signer) -> Iterator[Form]:
    """Subsets of the signed and unsigned addresses, those most like the signed ones first."""
    pool = tuple(dict.fromkeys(signer.addresses + signer.unsigned))
    signed = len(dict.fromkeys(signer.addresses))
    chosen: Iterable[tuple[bytes, ...]]
    if len(pool) <= SUBSET_ADDRESSES_MAX:
        own = (1 << signed) - 1
        masks = sorted(range(1, 1 << len(pool)), key=lambda mask: (mask ^ own).bit_count())
        chosen = (tuple(each for i, each in enumerate(pool) if mask >> i & 1) for mask in masks[1:])
    else:
        kept = pool[:signed]
        chosen = chain(
            (kept[:i] + kept[i + 1 :] for i in range(signed)),
            ((*kept, each) for each in pool[signed:]),
            ((each,) for each in pool),
            (pool[:count] for count in range(2, len(pool))),
        )
    for each in chosen:
        yield _bodies(signer, each)[0], partial(difference, signer, each)


def caveat(signer: Signer, form: str) -> str | None:
    """Which implementation refuses a valid digest of this form, and what to change.

    None: hosts of the dialect of `signer` send this form.
    """
    if form == "plain" or (form == "with") != (signer.dialect == "openbsd"):
        return None
    named = _names(link_local_addresses(signer.addresses))
    automatic = automatic_of(signer.vhid)
    if form == "with":
        return (
            f"signed with link-local {named} as FreeBSD and NetBSD do; OpenBSD refuses that because"
            f' its carp interface also has {automatic} (set dialect = "openbsd" on its sender)'
        )
    how = f"without link-local {named}"
    if form == "automatic":
        how = f"with link-local {automatic}, which OpenBSD's carp interface also has,"
    return (
        f"signed {how} as OpenBSD accepts it and FreeBSD and NetBSD do not; OpenBSD refuses what"
        f' dialect "{signer.dialect}" sends (set dialect = "openbsd" here)'
    )


def link_local_addresses(addresses: Iterable[bytes]) -> list[bytes]:
    return [each for each in addresses if len(each) == 16 and each.startswith(LINK_LOCAL)]


def automatic_of(vhid: int) -> str:
    """The automatic link-local address of OpenBSD's carp interface with its default MAC."""
    return address_text(automatic_link_local(virtual_mac("bsd", vhid)))


def difference(signer: Signer, chosen: Sequence[bytes]) -> str:
    """How `chosen` differs from the signed addresses of a virtual host, and what to change."""
    lacking = [each for each in signer.addresses if each not in chosen]
    added = [each for each in chosen if each not in signer.addresses]
    parts = []
    if lacking:
        size = len(lacking[0])
        family = [each for each in signer.addresses if len(each) == size]
        whole = lacking == family and len(family) > 1
        names = f"the IPv{4 if size == 4 else 6} addresses" if whole else _names(lacking)
        parts.append(f"without {names}")
    if added:
        parts.append(f"with {_names(added)} of unsigned_addresses")
    if lacking and added:
        advice = "sign the same addresses here and there"
    elif added:
        advice = f"move {'it' if len(added) == 1 else 'them'} to addresses"
    elif len(chosen) == 1 and len(chosen[0]) == 4:
        advice = "ucarp signs exactly one address: move the rest to unsigned_addresses"
    else:
        them = "it" if len(lacking) == 1 else "them"
        advice = f"add {them} on the sender, or move {them} to unsigned_addresses"
    return f"{' and '.join(parts)} ({advice})"


def _names(addresses: Iterable[bytes]) -> str:
    return listed([address_text(each) for each in addresses])


def _split(body: bytes, four: int) -> list[bytes]:
    """The addresses of a body that begins with `four` IPv4 ones."""
    end = 4 * four
    sizes = ((body[:end], 4), (body[end:], 16))
    return [part[i : i + size] for part, size in sizes for i in range(0, len(part), size)]


def _scoped(address: bytes, scope: bytes) -> bytes:
    """A link-local IPv6 address with `scope` in its bytes 2 and 3; any other one unchanged."""
    if len(address) == 16 and address.startswith(LINK_LOCAL):
        return address[:2] + scope + address[4:]
    return address


def _reversed(address: bytes) -> bytes:
    return address[::-1]
