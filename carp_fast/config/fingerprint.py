"""A digest of a configuration, the same wherever it says the same, without its secrets.

Must not know who compares it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from carp_fast.config.model import NO_LABELS, Configuration, Settings

# Neither what is secret nor where a table stands.
LEFT_OUT = frozenset({"passphrase", "origin"})
AT_A_TIME = 1_000  # virtual hosts that are encoded without a pause


def _plain(value: object) -> str:
    return str(value)


def _settings(settings: Settings) -> dict[str, Any]:
    fields = settings.__struct_fields__
    return {field: getattr(settings, field) for field in fields if field not in LEFT_OUT}


def fingerprint(configuration: Configuration) -> str:
    """The SHA-256, in hexadecimal digits, of [daemon], the tracks and the virtual hosts."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(msgspec.json.encode(value, enc_hook=_plain) + b"\n")

    add(msgspec.structs.asdict(configuration.daemon))
    add([msgspec.structs.asdict(track) for track in configuration.tracks])
    last, hosts = None, configuration.virtual_hosts
    for begin in range(0, len(hosts), AT_A_TIME):
        for host in hosts[begin : begin + AT_A_TIME]:
            if host.settings is not last:  # virtual hosts of a table share them
                last = host.settings
                add(_settings(last))
            add((host.interface, host.vhid, host.addresses, host.unsigned_addresses))
            if host.labels != NO_LABELS:
                add(host.labels)
    return digest.hexdigest()
