"""Which limits a plan passes: each on the side where it is kept, and on the other."""

from __future__ import annotations

import msgspec
import pytest

from carp_fast.daemon.limits import Demand, Kernel, passed, read_kernel
from carp_fast.net.filters import packet_filter

MODEST = Demand(
    interfaces=4,
    advertisements_per_s=1_020.0,
    igmp_memberships=20,
    mld_memberships=4,
    raw=False,
    ring=False,
    peers=0,
    peers6=0,
    macs=0,
)
KERNEL = Kernel(descriptors=148)

# (what the plan needs, what the kernel allows, what still fits, the line's beginning and end)
LIMITS = [
    (
        {"igmp_memberships": 21},
        {},
        "net.ipv4.igmp_max_memberships: 21 IGMP memberships would be needed, one for each interface"
        " and group outside 224.0.0.0/24, and a socket may hold 20: spread over 2 sockets",
    ),
    (
        {"igmp_memberships": 21, "raw": True},
        {},
        "net.ipv4.igmp_max_memberships: 21 IGMP memberships would be needed, one for each interface"
        " and group, and a socket may hold 20: spread over 2 sockets",
    ),
    (
        {"igmp_memberships": 1},
        {"igmp_max_memberships": 0},
        "net.ipv4.igmp_max_memberships: 1 IGMP memberships would be needed, one for each interface"
        " and group outside 224.0.0.0/24, and a socket may hold 0: none can be joined",
    ),
    (
        {"mld_memberships": 366},
        {},
        "net.core.optmem_max: 366 MLD memberships would be needed, one for each interface and IPv6"
        " group, and a socket may hold about 365: spread over 19 sockets",
    ),
    (
        {},
        {"descriptors": 129},
        "RLIMIT_NOFILE: some 130 descriptors would be open, and 129 are allowed",
    ),
    (
        {"interfaces": 732},
        {},
        "net.core.optmem_max: 732 interfaces, and a filter that the kernel accepts has room for"
        " about 731: advertisements of all interfaces would be read",
    ),
    (
        {"interfaces": 1_501},
        {"optmem_max": 131_072},
        "FILTERED_INTERFACES_MAX: 1,501 interfaces, and a filter of at most 4,096 instructions"
        " has room for 1,500: advertisements of all interfaces would be read",
    ),
    (
        {"advertisements_per_s": 65_280.0},
        {},
        "BUFFER_MAX: 4 s of advertisements would need a receive buffer of 191 MiB, and 64 MiB hold"
        " 1.3 s of them",
    ),
    (
        {"advertisements_per_s": 200_000.0, "ring": True},
        {},
        "SLOTS_MAX: 2 s of advertisements would need a ring of 49 MiB, and 32 MiB hold 1.3 s of"
        " them",
    ),
    (
        {},
        {"rmem_max": 3_133_439, "forces_buffers": False},
        "net.core.rmem_max: a receive buffer of 3,133,440 bytes would be needed, and 3,133,439 are"
        " allowed in this user namespace",
    ),
    (
        {"peers": 1_025},
        {},
        "net.ipv4.neigh.default.gc_thresh3: 1,025 unicast peers, and the neighbour table holds"
        " 1,024",
    ),
    (
        {"peers6": 9},
        {"neighbours6": 8},
        "net.ipv6.neigh.default.gc_thresh3: 9 unicast peers, and the neighbour table holds 8",
    ),
    (
        {"macs": 8_193},
        {},
        "SWITCH_MACS: 8,193 virtual MACs would be sent from, and the table of a small switch holds"
        " 8,192: it would flood frames to the others",
    ),
]


@pytest.mark.parametrize(("needs", "allows", "line"), LIMITS)
def test_a_limit_has_its_name(
    needs: dict[str, object], allows: dict[str, object], line: str
) -> None:
    demand = msgspec.structs.replace(MODEST, **needs)
    kernel = msgspec.structs.replace(KERNEL, **allows)
    found = passed(demand, kernel)
    assert line in found
    # The one membership more is a socket more, and a descriptor.
    assert {each.partition(":")[0] for each in found} <= {line.partition(":")[0], "RLIMIT_NOFILE"}


def test_what_just_fits_passes_no_limit() -> None:
    fits = msgspec.structs.replace(
        MODEST, interfaces=731, mld_memberships=0, peers=1_024, peers6=1_024, macs=8_192
    )
    kernel = msgspec.structs.replace(KERNEL, rmem_max=3_133_440, forces_buffers=False)
    assert passed(fits, kernel) == ()
    assert passed(MODEST, msgspec.structs.replace(KERNEL, rmem_max=1)) == ()


def test_rings_need_no_filter_and_no_socket_buffer() -> None:
    wide = msgspec.structs.replace(
        MODEST, interfaces=1_900, advertisements_per_s=65_536.0, mld_memberships=0, ring=True
    )
    assert passed(wide, msgspec.structs.replace(KERNEL, rmem_max=1, forces_buffers=False)) == ()


def test_more_interfaces_than_sources_have_a_lane() -> None:
    fits, more = (msgspec.structs.replace(MODEST, interfaces=count) for count in (2_000, 2_001))
    named = [line for line in passed(more, KERNEL) if line.startswith("SOURCES_MAX: 2,001 inter")]
    assert len(named) == 1
    assert not any(line.startswith("SOURCES_MAX") for line in passed(fits, KERNEL))


def test_a_rate_beyond_a_core() -> None:
    lines = passed(msgspec.structs.replace(MODEST, advertisements_per_s=400_001.0), KERNEL)
    assert lines[1:] == (
        "PUMP_FRAMES_PER_S: 400,001 advertisements/s, and one core moves about 400,000 frames/s",
    )


def test_a_filter_of_the_most_interfaces_is_within_the_kernels_instructions() -> None:
    assert len(packet_filter(list(range(2, 1_502)))) <= 4_096


def test_the_kernel_is_read() -> None:
    kernel = read_kernel()
    assert min(kernel.igmp_max_memberships, kernel.optmem_max, kernel.rmem_max) > 0
    assert min(kernel.neighbours, kernel.neighbours6) > 0
