"""Loads the configuration: TOML files become virtual hosts, and one run reports all faults.

Every fault is a line `FILE:LINE: table: key = value: what is wrong and what is allowed`. The types
are in model.py, the files as tables in documents.py, the lines of keys in lines.py, the rule of
each key in rules.py, ranges and templates in ranges.py; claims.py finds identities and addresses
used twice. Must not know sockets, interfaces that exist, which program reads the configuration, or
more of the engine than its keys.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from carp_fast.config import ranges
from carp_fast.config.claims import (
    Identities,
    repeated_address,
    shared_addresses,
    unlisted_source,
    virtual_sources,
)
from carp_fast.config.documents import Documents, Findings, Table
from carp_fast.config.doubts import Doubts
from carp_fast.config.group_tables import GroupTables
from carp_fast.config.labels import LabelKeys, TableLabels
from carp_fast.config.model import (
    MAX_INTERFACES,
    MAX_VIRTUAL_HOSTS,
    Configuration,
    ConfigurationError,
    Daemon,
    Fault,
    Origin,
    Settings,
    VirtualHost,
    as_shown,
    destinations_of,
    families_of,
)
from carp_fast.config.ranges import Interfaces, Template, item_parsers
from carp_fast.config.readings import Readings, read_settled
from carp_fast.config.rules import (
    ADDRESS_KEYS,
    ANNOUNCE_RULES,
    DAEMON_RULES,
    HOST_KEYS,
    OTHER_KEYS,
    PASSPHRASE_KEYS,
    SETTING_RULES,
    Refused,
    Rule,
    plain_text,
)
from carp_fast.config.secrets import (
    ENCRYPTED_PREFIX,
    ESTIMATED_MAX,
    CredentialsMissing,
    KeyMissing,
    Passphrases,
    SecretError,
    credentials_directory,
    read_key,
    read_key_credential,
)
from carp_fast.config.strength import GUESSES_PER_S, WEAK_S, in_words
from carp_fast.config.track_tables import TrackTables
from carp_fast.config.writers import Exposure
from carp_fast.engine._auth import Passphrase
from carp_fast.engine.keys import Announce

__all__ = [
    "MAX_INTERFACES",
    "MAX_VIRTUAL_HOSTS",
    "Announce",
    "Configuration",
    "ConfigurationError",
    "Daemon",
    "Fault",
    "Origin",
    "Settings",
    "VirtualHost",
    "load",
    "load_settled",
]

Item = TypeVar("Item")
Given = bytes | Passphrase
GROUP_KEYS = ("destination", "destination6", "broadcast")  # not used with peers
NOT_CHECKED = (
    "not checked here: systemd gives the credential to the service alone; to check it, set"
    " CREDENTIALS_DIRECTORY to the directory in /run/credentials of the running service"
)
EXCLUDING = frozenset((*GROUP_KEYS, "peers", "dialect"))  # may make other keys meaningless


def load(path: Path | str, *, without_credentials: bool = False) -> Configuration:
    """Reads a TOML file and the files that it includes.

    `without_credentials`: passphrases that need a systemd credential are empty where systemd gave
    this process none, with a warning. Raises ConfigurationError, which holds every error found; a
    file that cannot be read is one.
    """
    unknown = without_credentials and credentials_directory() is None
    return _Loader(Path(path), Readings(), unknown_credentials=unknown).load()


def load_settled(path: Path) -> Configuration:
    """Reads as load() does, and again while a file changes; see read_settled in readings.py.

    For a daemon: its passphrases are without their text.
    """
    return read_settled(path, lambda readings: _Loader(path, readings, sealed=True).load())


class _Values(NamedTuple):
    """Typed values of a table, inherited ones included; `bad` keys were reported as faults."""

    values: dict[str, Any]
    bad: set[str]


class _Loader:
    """One run over the main file and the included ones; collects all faults before it raises."""

    def __init__(
        self,
        path: Path,
        readings: Readings,
        *,
        unknown_credentials: bool = False,
        sealed: bool = False,
    ) -> None:
        self.path = path
        self.unknown_credentials = unknown_credentials
        self.sealed = sealed
        self.readings = readings
        self.found = Findings()
        self.fault, self.warn = self.found.fault, self.found.warn
        self.documents = Documents(path, readings, self.found)
        self.guessable: dict[Given, tuple[Origin, str, str, int]] = {}
        self.not_estimated = 0
        self.exposures: dict[Path, list[Exposure]] = {}
        self.defaults = Table(Origin(str(path), "defaults"), {}, path.parent, exposed=False)
        self.passphrases = Passphrases(None, readings, sealed=sealed)
        self.key_broken = False
        self.count = 0
        self.virtual_hosts: list[VirtualHost] = []
        self.interfaces: dict[str, list[VirtualHost]] = {}
        self.identities = Identities()
        self.groups = GroupTables(self.found, self.parse)
        self.labels = LabelKeys(self.found, self.owner)
        self.tracks = TrackTables(self.found, self.parse, self.documents.writers)

    def load(self) -> Configuration:
        main = self.documents.read(self.path)
        if main is None:
            raise self.found.error()
        daemon = self.daemon(self.documents.table(main, "daemon"))
        self.defaults = self.documents.table(main, "defaults")
        inherited = self.settings(self.defaults, _Values({"passphrase": b""}, set()))
        for key, parse in item_parsers(numbered=True).items():
            if key in self.defaults.raw:
                self.items(self.defaults, key, parse)
        self.labels.check(self.defaults)
        arrays = self.documents.arrays(main)
        for table in arrays["group"]:
            self.groups.read(table)
        for table in arrays["track"]:
            self.tracks.read(table)
        for table in arrays["virtual_host"]:
            self.virtual_host(table, inherited)
        self.groups.check_uses()
        self.tracks.check_uses()
        for origin, (source, name) in virtual_sources(self.virtual_hosts).items():
            text = (
                f"is an address of {name}, which exists only while MASTER; allowed: an address of"
                " the machine itself"
            )
            self.fault(origin, "source", as_shown(source), text)
        if self.found.faults:
            raise self.found.error()
        if not self.virtual_hosts:
            self.warn(main.origin, None, None, "no virtual host is configured")
        self.warn_of_guessable()
        self.warn_of_shared_addresses()
        files, warnings = tuple(self.documents.files.values()), self.found.warning_lines()
        found = self.readings.found()
        tracks = self.tracks.used
        return Configuration(self.path, files, daemon, self.virtual_hosts, warnings, *found, tracks)

    def parse(self, table: Table, rules: dict[str, Rule], others: Sequence[str]) -> _Values:
        """The values of a table by `rules`; `others` are keys that are read elsewhere."""
        result = _Values({}, set())
        for key, value in table.raw.items():
            if key in others:
                continue
            if key not in rules:
                self.found.unknown(table.origin, key, value, (*rules, *others))
                continue
            try:
                typed = rules[key](value)
            except Refused as refused:
                self.fault(table.origin, key, as_shown(value), str(refused))
                result.bad.add(key)
            else:
                if typed is not None:  # None: the default of a key that is not supported yet
                    result.values[key] = typed
        return result

    def daemon(self, table: Table) -> Daemon:
        """Reads [daemon] and the key for encrypted passphrases that it names."""
        values, bad = self.parse(table, DAEMON_RULES, ())
        key = None
        try:
            if "secret_key_file" in values:
                path = (table.directory / values["secret_key_file"]).absolute()
                values["secret_key_file"] = path
                key = read_key(path, self.readings)
                self.check_writers(table, "secret_key_file", path)
            elif "secret_key_file" not in bad:
                key = read_key_credential(self.readings)
        except SecretError as error:
            shown = as_shown(table.raw.get("secret_key_file", str(error.path)))
            self.fault(table.origin, "secret_key_file", shown, error.text)
            bad.add("secret_key_file")
        self.key_broken = "secret_key_file" in bad
        self.passphrases = Passphrases(key, self.readings, sealed=self.sealed)
        if "notify" in values:
            self.check_program(table, "notify")
        loaded = Daemon(**values)
        self.check_metrics(table, loaded, bad)
        return loaded

    def check_metrics(self, table: Table, daemon: Daemon, bad: set[str]) -> None:
        """Reports metrics that other hosts may read, unless that is wanted, which is a warning."""
        address = daemon.metrics
        if not bad.isdisjoint({"metrics", "metrics_public"}):
            return
        if address is None or address.is_local:
            if daemon.metrics_public:
                text = "has no effect: metrics are not offered to other hosts"
                self.warn(table.origin, "metrics_public", "true", text)
            return
        shown = as_shown(table.raw["metrics"])
        if daemon.metrics_public:
            text = "anyone who reaches this address may read which virtual hosts are where"
            text += ", and on the page why" if daemon.metrics_page else ""
            self.warn(table.origin, "metrics", shown, text)
        else:
            text = (
                "other hosts could read them; allowed: an address of 127.0.0.0/8, [::1], the path"
                " of a Unix socket, or metrics_public = true besides"
            )
            self.fault(table.origin, "metrics", shown, text)

    def check_writers(self, table: Table, key: str, path: Path) -> None:
        """Reports who else may change a file that a key names."""
        if path not in self.exposures:
            self.exposures[path] = self.documents.writers.of(path)
        for each in self.exposures[path]:
            self.found.exposed(table.origin, key, as_shown(table.raw[key]), each)

    def check_program(self, table: Table, key: str) -> None:
        path = table.raw[key]
        self.check_writers(table, key, Path(path))
        try:
            runnable = stat.S_ISREG(Path(path).stat().st_mode) and os.access(path, os.X_OK)
        except OSError as error:
            self.warn(table.origin, key, as_shown(path), f"cannot be run: {error.strerror}")
        else:
            if not runnable:
                self.warn(table.origin, key, as_shown(path), "is not an executable file")

    def settings(self, table: Table, inherited: _Values) -> _Values:
        """The settings of [defaults] or of a virtual host's table, inherited ones included."""
        raw = table.raw
        values, bad = self.parse(table, SETTING_RULES, OTHER_KEYS)
        overridden = set(raw)
        if not overridden.isdisjoint(PASSPHRASE_KEYS):
            overridden.add("passphrase")
            passphrase = self.passphrase(table)
            if not passphrase:
                bad.add("passphrase")
            if passphrase is not None:
                values["passphrase"] = passphrase
        if "announce" in raw:
            values["announce"] = self.announce(table, inherited.values.get("announce", Announce()))
        for key in ("up", "down"):
            if values.get(key, "").startswith("/"):
                self.check_program(table, key)
        if "group" in values:
            self.groups.name(table)
        if values.get("track"):
            self.tracks.name(table, values["track"])
        if "source" in values:  # one key, a field for each family
            values["source"], values["source6"] = values["source"]
        kept = inherited.values
        if not EXCLUDING.isdisjoint(values):
            dropped = self.not_inherited(table, values)
            kept = {key: value for key, value in kept.items() if key not in dropped}
        return _Values(kept | values, bad | (inherited.bad - overridden))

    def not_inherited(self, table: Table, values: dict[str, Any]) -> set[str]:
        """Keys that a table does not inherit, since its own `values` make them meaningless.

        Advertisements go either to groups or to peers, and a table's own keys decide which.
        """
        to_groups = {key for key in GROUP_KEYS if values.get(key, False)}
        dropped: set[str] = set()
        if values.get("peers"):
            dropped = {*GROUP_KEYS, "advertise_mac"}
            for key in to_groups:
                text = "cannot be combined with peers; remove one of them from this table"
                self.fault(table.origin, key, as_shown(table.raw[key]), text)
        elif to_groups:
            dropped = {"peers"}
        if values.get("dialect", "openbsd") != "openbsd":
            dropped.add("lladdr")
        return dropped

    def check_together(self, table: Table, settings: Settings, bad: set[str]) -> None:
        """Reports settings that are valid by themselves, but not together."""
        openbsd = settings.dialect == "openbsd" or "dialect" in bad
        # An interval of zero; OpenBSD makes it 1/256 s.
        never = settings.advbase == settings.advskew == 0 and not openbsd
        if never and bad.isdisjoint({"advbase", "advskew"}):
            owner = table if "advbase" in table.raw else self.owner(table, "advskew")
            text = "must be from 1 to 254 where advbase is 0, or advbase from 1 to 255"
            self.fault(owner.origin, "advskew", "0", f'{text}, or dialect "openbsd"')
        if settings.lladdr is not None and not openbsd:
            text = 'is used only in dialect "openbsd"; allowed: leave the key out'
            self.fault_of(table, "lladdr", text)
        if settings.peers:
            if settings.advertise_mac != "interface":
                text = "cannot be combined with peers, to which the kernel sends; allowed:"
                text += ' "interface"'
                self.fault_of(table, "advertise_mac", text)
            for source in {settings.source, settings.source6}.intersection(settings.peers):
                text = f"holds {source}, which is the source; allowed: addresses of other hosts"
                self.fault_of(table, "peers", text)
            wrong = unlisted_source(settings.peers) if settings.source6 is None else None
            if wrong is not None:
                self.fault_of(table, "peers", wrong)

    def fault_of(self, table: Table, key: str, text: str) -> None:
        """Reports a fault of a key that the table has or inherits."""
        owner = self.owner(table, key)
        self.fault(owner.origin, key, as_shown(owner.raw[key]), text)

    def announce(self, table: Table, inherited: Announce) -> Announce:
        """Reads `announce` key by key; keys that a table leaves out come from [defaults]."""
        raw = table.raw["announce"]
        if not isinstance(raw, dict):
            text = "must be a table such as {count = 1, interval_s = 0, refresh_s = 0}"
            self.fault(table.origin, "announce", as_shown(raw), text)
            return inherited
        dotted = {f"announce.{key}": value for key, value in raw.items()}
        values, _ = self.parse(table._replace(raw=dotted), ANNOUNCE_RULES, ())
        return msgspec.structs.replace(
            inherited, **{key.removeprefix("announce."): value for key, value in values.items()}
        )

    def warn_if_guessable(self, table: Table, key: str, shown: str, given: Given) -> None:
        """Notes a weak passphrase for warn_of_guessable(), with the first table that has it."""
        guessed_in_s = self.passphrases.guessed_in_s(given)
        if guessed_in_s is None:
            self.not_estimated += 1
        elif guessed_in_s < WEAK_S:
            first = self.guessable.get(given, (table.origin, key, shown, 0))
            self.guessable[given] = (*first[:3], first[3] + 1)

    def warn_of_guessable(self) -> None:
        """Warns of passphrases that are guessed soon, once for each."""
        for given, (origin, key, shown, count) in self.guessable.items():
            duration = in_words(self.passphrases.guessed_in_s(given) or 0.0)
            more = f", as that of {count - 1:,} more of the tables" if count > 1 else ""
            text = (
                f"a laptop that heard one advertisement guesses it in {duration}"
                f" ({GUESSES_PER_S:,} guesses a second){more}; safer: 12 random letters and digits"
            )
            self.warn(origin, key, shown, text)
        if self.not_estimated:
            text = f"{self.not_estimated:,} tables have passphrases after the first"
            text += f" {ESTIMATED_MAX:,} (ESTIMATED_MAX), which were not checked for weak ones"
            self.warn(Origin(str(self.path), ""), None, None, text)

    def passphrase(self, table: Table) -> Given | None:
        """The passphrase of a table that names one; None after a fault, empty if it is unknown."""
        given = [key for key in PASSPHRASE_KEYS if key in table.raw]
        key = given[-1]
        value = table.raw[key]
        shown = "(hidden)" if key == "passphrase" else as_shown(value)
        if len(given) > 1:
            text = (
                f"{' and '.join(given)} in one table; allowed: one of {', '.join(PASSPHRASE_KEYS)}"
            )
            self.fault(table.origin, key, shown, text)
            return None
        try:
            plain_text(value)
            passphrase = self.read_passphrase(table, key, value)
            self.warn_if_guessable(table, key, shown, passphrase)
            return passphrase
        except (KeyMissing, CredentialsMissing) as error:
            if self.unknown_credentials and not self.key_broken:
                self.warn(table.origin, key, shown, NOT_CHECKED)
                return b""
            if not self.key_broken:  # a broken key has been reported already
                self.fault(table.origin, key, shown, error.text)
        except SecretError as error:
            self.fault(table.origin, key, shown, error.text)
        except Refused as refused:
            self.fault(table.origin, key, shown, str(refused))
        return None

    def read_passphrase(self, table: Table, key: str, value: str) -> Given:
        """The passphrase that `key` gives. Raises SecretError."""
        if key == "passphrase_file":
            path = table.directory / value
            passphrase = self.passphrases.from_file(path)
            self.check_writers(table, key, path)
            return passphrase
        if key == "passphrase_credential":
            return self.passphrases.from_credential(value)
        if table.exposed and not value.startswith(ENCRYPTED_PREFIX):
            text = "others may read this file; use passphrase_file or encrypt the passphrase"
            self.warn(table.origin, key, "(hidden)", text)
        return self.passphrases.from_text(value)

    def owner(self, table: Table, key: str) -> Table:
        return table if key in table.raw else self.defaults

    def items(self, table: Table, key: str, parse: Callable[[Any], Sequence[Item]]) -> list[Item]:
        """The parsed items of a key that is one value or a list; empty after a fault."""
        owner = self.owner(table, key)
        allowed = HOST_KEYS[key]
        if key not in owner.raw:
            if key != "unsigned_addresses":
                self.fault(table.origin, key, "(missing)", f"must be given; allowed: {allowed}")
            return []
        value = owner.raw[key]
        parsed: list[Item] = []
        failed = False
        for item in value if isinstance(value, list) else [value]:
            try:
                parsed += parse(item)
            except Refused as refused:
                self.fault(owner.origin, key, as_shown(item), str(refused))
                failed = True
            if key == "interface" and len(parsed) > MAX_INTERFACES:
                break  # within_limits() reports this
        if value == [] and key != "unsigned_addresses":
            text = f"is empty and makes no virtual host; allowed: {allowed}"
            self.fault(owner.origin, key, "[]", text)
        return [] if failed else parsed

    def virtual_host(self, table: Table, inherited: _Values) -> None:
        """Makes the virtual hosts of one table."""
        values, bad = self.settings(table, inherited)
        if not values["passphrase"] and "passphrase" not in bad:
            words = ", ".join(PASSPHRASE_KEYS)
            text = f"must be given; allowed: one of {words}, here or in [defaults]"
            self.fault(table.origin, "passphrase", "(missing)", text)
        group = self.groups.of(values.pop("group", ""))
        settings = Settings(**values, group=group, origin=table.origin)
        self.check_together(table, settings, bad)
        self.tracks.use(settings)
        interfaces: Interfaces = self.items(table, "interface", ranges.named_interfaces)
        vhids = self.items(table, "vhid", ranges.vhid_numbers)
        numbered = all(number is not None for _, number in interfaces)
        parsers = item_parsers(numbered)
        templates = {key: self.items(table, key, parsers[key]) for key in ADDRESS_KEYS}
        labels = self.labels.of(table, numbered=numbered)
        if self.within_limits(table, interfaces, len(vhids)):
            if bad.isdisjoint({"destination", "destination6", "peers"}):
                families = families_of([template.text for template in templates["addresses"]])
                destinations = destinations_of(settings, families)
                self.claim(table, interfaces, vhids, destinations)
            self.expand(table, interfaces, vhids, templates, settings, labels=labels)

    def within_limits(self, table: Table, interfaces: Interfaces, vhids: int) -> bool:
        """True if the engine has room for this table as well; a limit exceeded is a fault."""
        before = (len(self.interfaces), self.count)
        for name, _ in interfaces:
            self.interfaces.setdefault(name, [])
        self.count += len(interfaces) * vhids
        now = (len(self.interfaces), self.count)
        limits = (
            ("interface", "interfaces", "MAX_INTERFACES", MAX_INTERFACES),
            ("vhid", "virtual hosts", "MAX_VIRTUAL_HOSTS", MAX_VIRTUAL_HOSTS),
        )
        for had, has, (key, noun, name, most) in zip(before, now, limits, strict=True):
            if had <= most < has:
                text = f"makes {has:,} {noun} with earlier tables; allowed: {most:,} ({name})"
                shown = as_shown(self.owner(table, key).raw[key])
                self.fault(table.origin, key, shown, text)
        return now[0] <= MAX_INTERFACES and now[1] <= MAX_VIRTUAL_HOSTS

    def claim(
        self,
        table: Table,
        interfaces: Interfaces,
        vhids: list[int],
        destinations: tuple[str, ...],
    ) -> None:
        """Claims the identities of a table; a clash is a fault that names both tables."""
        names = [name for name, _ in interfaces]
        for clash in self.identities.claim(table.origin, names, vhids, destinations):
            where = "this table" if clash.owner == table.origin else str(clash.owner)
            more = f" and {len(clash.names) - 1:,} more" if len(clash.names) > 1 else ""
            text = (
                f"{clash.names[0]}{more} with destination {' and '.join(clash.destinations)} exists"
                f" in {where}; allowed: one virtual host for each interface, destination and vhid"
            )
            self.fault(table.origin, "vhid", as_shown(self.owner(table, "vhid").raw["vhid"]), text)

    def expand(
        self,
        table: Table,
        interfaces: Interfaces,
        vhids: list[int],
        templates: dict[str, list[Template]],
        settings: Settings,
        *,
        labels: TableLabels,
    ) -> None:
        """Makes the virtual hosts from the templates, by interface and then by vhid."""
        index = 0
        repeated = False
        doubts = Doubts()
        for interface, number in interfaces:
            hosts = self.interfaces[interface]
            for vhid in vhids:
                filled: list[tuple[str, ...]] = []
                for key in ADDRESS_KEYS:
                    texts = []
                    for template in templates[key]:
                        try:
                            texts.append(template.at(vhid, number, index))
                        except Refused as refused:
                            if not template.failed:
                                template.failed = True
                                text = f"for {interface}/{vhid}: {refused}"
                                self.fault(table.origin, key, as_shown(template.text), text)
                    filled.append(tuple(texts))
                named = labels.at(interface, vhid, number, index)
                host = VirtualHost(interface, vhid, filled[0], filled[1], settings, named)
                doubts.look(host)
                if not repeated and (settings.peers or len(filled[0]) + len(filled[1]) > 1):
                    repeated = self.find_repeated_address(table, host)
                self.virtual_hosts.append(host)
                hosts.append(host)
                index += 1
        for doubt in doubts.found:
            self.warn(table.origin, doubt.key, as_shown(doubt.address), doubt.text)

    def find_repeated_address(self, table: Table, host: VirtualHost) -> bool:
        repeated = repeated_address(host)
        if repeated is None:
            return False
        key, address = repeated
        text = f"{host.name} holds it twice; allowed: once, signed or unsigned"
        if address.partition("/")[0] in host.settings.peers:
            text = f"{host.name} also has it as a peer; allowed: peers that are other hosts"
        self.fault(table.origin, key, as_shown(address), text)
        return True

    def warn_of_shared_addresses(self) -> None:
        """Warns of addresses in two virtual hosts of an interface, once for a pair of tables."""
        for shared in shared_addresses(self.interfaces.values()):
            origin, other_origin = shared.origin, shared.holder.settings.origin
            more = f", and {shared.others:,} more" if shared.others else ""
            where = "this table" if origin == other_origin else str(other_origin)
            text = f"held by both {shared.host.name} and {shared.holder.name} ({where}){more}"
            self.warn(origin, shared.key, as_shown(shared.address), text)
