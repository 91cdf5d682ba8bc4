"""Judges advertisements by a configuration, and explains wrong digests.

Finds the virtual host that an advertisement is for, and remembers explanations for senders of wrong
digests. Must not know where frames come from, nor how a verdict is shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from carp_fast.capture.digests import (
    Guess,
    Signer,
    caveat,
    guesses,
    listed,
)
from carp_fast.config.model import Configuration, VirtualHost
from carp_fast.engine._auth import Key
from carp_fast.inet import address_bytes, address_text, mac_bytes, prefix_bytes

TRIES_MAX = 30_000
"""Digests tried to explain one advertisement, which take a third of a second."""
OTHER_HOSTS_MAX = 1_024
"""Virtual hosts whose passphrases and addresses are tried, first those of the same interface."""
UNEXPLAINED_MAX = 256
"""Sources without an explanation; after this many, further sources are not analysed."""
TRIES_EACH = 100
"""After N tries that explain nothing, N // TRIES_EACH advertisements of the source are skipped."""
FOUND_KEPT = 16
"""Explanations kept for a virtual host and tried first on its next advertisement."""
NO_MAC = bytes(6)


class Finding(NamedTuple):
    """A verdict, a word of _wire.VERDICT_WORDS, and what to change if that is known.

    With "ok", `why` names the implementation that refuses a digest of this form, or the virtual
    host whose passphrase is unknown, so that the digest is not verified.
    """

    verdict: str
    why: str | None = None


def signer_of(host: VirtualHost, main_file: str = "") -> Signer:
    """What a virtual host signs with; tables of `main_file` are named without their file."""
    settings, origin = host.settings, host.settings.origin
    destinations = tuple(map(address_bytes, host.destinations))
    return Signer(
        host=host.name,
        table=origin.here if origin.file == main_file else str(origin),
        interface=host.interface,
        vhid=host.vhid,
        passphrase=settings.passphrase_text,
        addresses=tuple(prefix_bytes(each)[0] for each in host.addresses),
        unsigned=tuple(prefix_bytes(each)[0] for each in host.unsigned_addresses),
        groups=() if settings.peers else destinations,
        peers=destinations if settings.peers else (),
        lladdr=mac_bytes(settings.lladdr) if settings.lladdr else None,
        dialect=settings.dialect,
    )


def signers_of(configuration: Configuration) -> list[Signer]:
    """What each virtual host signs with, in the order of the configuration."""
    main_file = str(configuration.path)
    return [signer_of(host, main_file) for host in configuration.virtual_hosts]


class Judge:
    """Judges advertisements by what virtual hosts sign with.

    `not_searched`: the number of advertisements that were not analysed, see UNEXPLAINED_MAX.
    """

    def __init__(self, signers: Sequence[Signer]) -> None:
        self.not_searched = 0
        self._signers = signers
        self._interfaces = {signer.interface for signer in signers}
        self._by_vhid: dict[int, list[Signer]] = {}
        for signer in signers:
            self._by_vhid.setdefault(signer.vhid, []).append(signer)
        self._keys: dict[Signer, list[tuple[Key, str | None]]] = {}
        self._found: dict[tuple[str | None, int], deque[tuple[Key, str]]] = {}
        self._unexplained: dict[tuple[str | None, int, bytes, bytes], int] = {}

    @property
    def unexplained(self) -> int:
        """The number of sources with an unexplained wrong digest."""
        return len(self._unexplained)

    def judge(self, heard: Mapping[str, Any], interface: str | None = None) -> Finding:
        """The verdict on an advertisement, parsed by _wire.parse and heard on `interface`.

        Interfaces are ignored if none is given, or one without a virtual host. Verdicts that
        depend on earlier advertisements (loop, replay) are not given; the checks have the engine's
        order, see engine_receive.
        """
        if heard["verdict"] != "ok":
            return Finding(heard["verdict"])
        here = interface if interface in self._interfaces else None
        hosts = [
            signer
            for signer in self._by_vhid.get(heard["vhid"], ())
            if here is None or signer.interface == here
        ]
        taking = [signer for signer in hosts if _takes(signer, heard)]
        for signer in taking:
            right = self._right(signer, heard)
            if right is not None:
                return Finding("bad_version") if heard["version"] == 3 else right
        if heard["version"] == 3:
            return Finding("vrrp")
        if not hosts:
            return Finding("bad_vhid", self._explain(hosts, here, heard))
        if not taking:
            return self._misdirected(hosts, heard)
        unknown = [signer.host for signer in taking if not signer.passphrase]
        if unknown:
            return Finding(
                "ok", f"digest not verified: the passphrase of {listed(unknown)} is unknown here"
            )
        return Finding("bad_auth", self._explain(taking, here, heard))

    def _right(self, signer: Signer, heard: Mapping[str, Any]) -> Finding | None:
        """The finding for a valid digest, with the refuser of its form; None for a wrong one, and
        if the passphrase is unknown.
        """
        if not signer.passphrase:
            return None
        keys = self._keys.get(signer)
        if keys is None:
            keys = [
                (Key(signer.passphrase, message), caveat(signer, form))
                for form, message in signer.forms()
            ]
            self._keys[signer] = keys
        for key, refused_by in keys:
            if key.verify(heard["counter"], heard["digest"]):
                return Finding("ok", refused_by)
        return None

    def _misdirected(self, hosts: Sequence[Signer], heard: Mapping[str, Any]) -> Finding:
        """The verdict on an advertisement whose source or destination no virtual host accepts."""
        with_peers = [signer for signer in hosts if signer.peers]
        destination = address_text(heard["destination"])
        if _is_unicast(heard["destination"]) and with_peers:
            source, names = address_text(heard["source"]), listed([s.host for s in with_peers])
            return Finding("bad_source", f"{source} is not among the peers of {names}: add it")
        family = heard["family"]
        size = 4 if family == 4 else 16
        if not any(len(each) == size for host in hosts for each in host.peers + host.groups):
            names = listed([signer.host for signer in hosts])
            signed = any(len(each) == size for host in hosts for each in host.addresses)
            lacks = f"has no IPv{family} peer" if signed else f"signs no IPv{family} address"
            return Finding("bad_vhid", f"{names} {lacks}, so nothing over IPv{family} is for it")
        for signer in hosts:
            if self._right(signer, heard):
                expected = listed([address_text(each) for each in signer.peers + signer.groups])
                why = (
                    f"digest right for {signer.host}, but it takes what is sent to {expected}, not"
                    f" to {destination} (give it and the sender the same destination)"
                )
                return Finding("bad_destination", why)
        return Finding("bad_destination")

    def _explain(
        self, hosts: Sequence[Signer], here: str | None, heard: Mapping[str, Any]
    ) -> str | None:
        counter, digest = heard["counter"], heard["digest"]
        found = self._found.setdefault((here, heard["vhid"]), deque(maxlen=FOUND_KEPT))
        for key, sentence in found:
            if key.verify(counter, digest):
                return sentence
        source = (here, heard["vhid"], heard["source"], heard["source_mac"])
        pause = self._unexplained.get(source)
        if pause is None and len(self._unexplained) >= UNEXPLAINED_MAX:
            self.not_searched += 1
            return None
        if pause:
            self._unexplained[source] = pause - 1
            return None
        tried = 0
        for guess in islice(self._guesses(hosts, here, heard), TRIES_MAX):
            tried += 1
            key = Key(guess.passphrase, guess.message)
            if key.verify(counter, digest):
                found.appendleft((key, guess.sentence))
                self._unexplained.pop(source, None)
                return guess.sentence
        self._unexplained[source] = tried // TRIES_EACH
        return None

    def _guesses(
        self, hosts: Sequence[Signer], here: str | None, heard: Mapping[str, Any]
    ) -> Iterator[Guess]:
        near = {here} if here else {signer.interface for signer in hosts}
        first = (signer for signer in self._signers if signer.interface in near)
        rest = (signer for signer in self._signers if signer.interface not in near)
        known = (signer for signer in chain(first, rest) if signer.passphrase)
        others = list(islice(known, OTHER_HOSTS_MAX))
        mac = None if heard["source_mac"] == NO_MAC else heard["source_mac"]
        return guesses(hosts, others, heard["vhid"], mac)


def _is_unicast(destination: bytes) -> bool:
    if len(destination) == 16:
        return destination[0] != 0xFF
    return destination[0] >> 4 != 0xE and destination != b"\xff" * 4


def _takes(signer: Signer, heard: Mapping[str, Any]) -> bool:
    """True if a virtual host accepts the source and destination of an advertisement."""
    if _is_unicast(heard["destination"]):
        return heard["source"] in signer.peers
    return heard["destination"] in signer.groups
