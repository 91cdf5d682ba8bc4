"""The families of metrics: their names, types, labels and meaning, once for all who name them.

The collector, the text with a line for each virtual host, docs/monitoring.md, and the files in
contrib/prometheus are held to this table. Knows names only.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]
PREFIX = "carp_fast_"


class Family(NamedTuple):
    """A family: its name without PREFIX, and without the suffix _total of a counter."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def exported(self) -> str:
        """The name of its samples, or what those of a histogram begin with."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


def _gauge(name: str, labels: str, text: str) -> Family:
    return Family(name, "gauge", tuple(labels.split()), text)


def _counter(name: str, labels: str, text: str) -> Family:
    return Family(name, "counter", tuple(labels.split()), text)


def _histogram(name: str, labels: str, text: str) -> Family:
    return Family(name, "histogram", tuple(labels.split()), text)


STATE = _gauge(
    "virtual_host_state",
    "interface vhid name segment",
    "State of a virtual host: 0 INIT, 1 BACKUP, 2 MASTER.",
)
TRANSITIONS = _counter(
    "virtual_host_transitions",
    "interface vhid name segment",
    "Changes of the state of a virtual host.",
)
OF_VIRTUAL_HOSTS = (STATE, TRANSITIONS)  # of /metrics/virtual_hosts

OF_ALL = (  # of /metrics
    _gauge(
        "build_info",
        "version sha1 receive pump scheduling",
        "1, with the version and the paths that were chosen at the start.",
    ),
    _gauge("start_time_seconds", "", "When the daemon started, in seconds since the epoch."),
    _gauge("maintenance", "", "Whether this host is in maintenance, or on the way to it."),
    _gauge("virtual_hosts", "interface segment state", "Virtual hosts in each state."),
    _counter(
        "transitions",
        "interface to reason",
        "Changes of state of virtual hosts, by the new state and the reason.",
    ),
    _gauge("interface_up", "interface", "Whether the interface is up and has a carrier."),
    _gauge(
        "interface_has_source",
        "interface family",
        "Whether the interface has an address to advertise from, for each family in use.",
    ),
    _counter("advertisements_sent", "interface", "Advertisements sent."),
    _counter("advertisements_heard", "interface", "Advertisements of other hosts accepted."),
    _counter(
        "advertisements_rejected",
        "interface verdict",
        "Packets that are no advertisement for a virtual host here, by what is wrong with them.",
    ),
    _counter("send_errors", "interface", "Frames of advertisements that could not be sent."),
    _counter(
        "announcements_sent",
        "interface",
        "Gratuitous ARPs and unsolicited neighbour advertisements sent.",
    ),
    _counter(
        "announcements_paced",
        "interface",
        "Announcements that waited for the interface's pace.",
    ),
    _gauge("addresses_held", "interface", "Virtual addresses that this daemon holds."),
    _gauge(
        "addresses_wanted",
        "interface",
        "Virtual addresses that this daemon should hold: those of virtual hosts that are MASTER.",
    ),
    _gauge(
        "addresses_foreign",
        "interface",
        "Virtual addresses that are on the interface and were not added by this daemon.",
    ),
    _counter(
        "addresses_restored",
        "interface",
        "Addresses added again after another program had removed them.",
    ),
    _counter(
        "duplicate_source",
        "interface",
        "Advertisements of another host from this host's source address.",
    ),
    _counter(
        "counters_reset",
        "interface",
        "Times that a host's counters went back and were learned again.",
    ),
    _counter(
        "family_silent",
        "interface",
        "Times that a master was heard over one family and not over the other.",
    ),
    _gauge(
        "second_masters",
        "interface segment",
        "Virtual hosts that are MASTER and heard another master within three of its intervals.",
    ),
    _gauge(
        "demotion",
        "group reason",
        "Demotion of the virtual hosts of a group, or of all (no group), by reason.",
    ),
    _gauge("track_ok", "track", "Whether a track is ok, or counts as that."),
    _histogram("track_duration_seconds", "track", "Duration of the checks of a track."),
    _counter("hooks", "kind result", "Hooks that ended, and those that another one superseded."),
    _gauge("hooks_running", "kind", "Hooks that run now."),
    _gauge("hooks_waiting", "kind", "Hooks that wait for others to end."),
    _histogram("hook_duration_seconds", "kind", "Duration of hooks."),
    _gauge(
        "config_last_reload_successful",
        "",
        "Whether the last reload was applied; 1 if there was none.",
    ),
    _gauge(
        "config_last_reload_success_timestamp_seconds",
        "",
        "When a configuration was last applied, the start included, in seconds since the epoch.",
    ),
    _gauge("config_info", "sha256", "1, with a digest of the configuration without its secrets."),
    _counter("pump_turns", "", "Turns of the pump."),
    _counter("pump_frames", "", "Frames that the pump received."),
    _counter("pump_dropped", "", "Frames that the kernel dropped because a socket was full."),
    _counter("pump_reports_lost", "", "Reports of the pump that found no room."),
    _histogram(
        "pump_lateness_seconds", "", "How much later than planned the turns of the pump began."
    ),
    _histogram(
        "takeover_duration_seconds",
        "",
        "Time from the last advertisement of the master before to the addresses acknowledged here.",
    ),
    _gauge("control_clients", "", "Clients that are connected to the control socket."),
    _counter("events_dropped", "", "Events that slow readers of the control socket lost."),
    _counter(
        "metrics_refused", "reason", "Clients of the metrics that were refused or disconnected."
    ),
)
OF_PROBLEMS = (  # of /metrics, with metrics_detail "exceptional" or "full"
    _gauge(
        "virtual_host_problem",
        "interface vhid name reason",
        "1 for each problem of each virtual host that is not as configured.",
    ),
    _gauge(
        "virtual_host_problems_truncated",
        "",
        "Problems of virtual hosts beyond the limit, which have no line.",
    ),
)
FAMILIES = (*OF_ALL, *OF_PROBLEMS, *OF_VIRTUAL_HOSTS)
BY_NAME = {family.name: family for family in FAMILIES}
