"""A virtual host in the engine's form: its outputs, keys and addresses, from plain values.

Decides what is signed and where advertisements are sent, and allocates all memory that the engine
needs for the host. Uses no engine, socket, clock or file.
"""

from cython cimport freelist
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from carp_fast.engine._auth cimport Passphrase, as_passphrase, auth_continue
from carp_fast.engine._core cimport MAX_INTERFACES as _MAX_INTERFACES
from carp_fast.engine._vhid cimport (
    Address, ALTERNATE_KEYS, AlternateKey, BARRED, Block, Configured, Output, OWN_MAC,
    PEERS_MAX as _PEERS_MAX, RETIRED, SIGNED, SOURCE6_MISSING, SOURCE_MISSING, VirtualHost,
    WITHHELD)
from carp_fast.engine._wire cimport (
    ADVERTISEMENT4_LENGTH, ADVERTISEMENT6_LENGTH, ETHERNET_LENGTH, IPV4_LENGTH, IPV6_LENGTH)

from carp_fast.engine.keys import ALL_KEYS, DIALECTS

PEERS_MAX = _PEERS_MAX
# The unspecified address and the broadcast address never enter a digest.
NEVER_SIGNED = {b"\0\0\0\0", b"\xff\xff\xff\xff"}
LINK_LOCAL = b"\xfe\x80"              # the kernels check these 16 bits, not only the prefix of 10
FOREVER_NS = 0x7fffffffffffffff
cdef dict last_keys = None
cdef Configured last_configured

cdef Block* new_block(uint32_t addresses, uint32_t outputs, uint32_t alternates) except NULL:
    """One zeroed allocation for a block and all that it points to."""
    cdef size_t size = (sizeof(Block) + addresses * sizeof(Address) + outputs * sizeof(Output)
                        + alternates * sizeof(AlternateKey))
    cdef Block* block = <Block*>calloc(1, size)
    if block == NULL:
        raise MemoryError("virtual host")
    block.alternates = <AlternateKey*>(block + 1)           # the widest alignment first
    block.outputs = <Output*>(block.alternates + alternates)
    block.addresses = <Address*>(block.outputs + outputs)
    block.address_count, block.output_count = addresses, outputs
    block.alternate_count = alternates
    return block


def multicast_mac(bytes group) -> bytes:
    """The Ethernet address of a 4- or 16-byte multicast `group` (RFC 1112, RFC 2464)."""
    if len(group) == 16:
        return b"\x33\x33" + group[12:]
    return bytes((1, 0, 0x5E, group[1] & 0x7F, group[2], group[3]))


def signed_message(int vhid, addresses, *, bytes lladdr=None, bint link_local=True) -> bytes:
    """The message of a digest, up to the counter: version, type, vhid, addresses.

    IPv4 addresses come first, each family ascending without duplicates. A link-local IPv6
    address is signed without its interface (bytes 2 and 3), or not at all (`link_local` False,
    OpenBSD's form). `lladdr`: the MAC of an OpenBSD carp interface that is not the usual one.
    Source: carp_hmac_prepare in the BSDs' ip_carp.c.
    """
    cdef set four = {data for data in addresses if len(data) == 4} - NEVER_SIGNED
    cdef set six = {data[:2] + b"\0\0" + data[4:] if data[:2] == LINK_LOCAL else data
                    for data in addresses if len(data) == 16
                    and (link_local or data[:2] != LINK_LOCAL)}
    return b"".join((bytes((2, 1)), lladdr or b"", bytes((vhid,)), *sorted(four), *sorted(six)))


def automatic_link_local(bytes mac not None) -> bytes:
    """The link-local address that the kernel derives from this 6-byte MAC (EUI-64)."""
    return (LINK_LOCAL + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:])


def signed_forms(int vhid, addresses, *, str dialect, bytes lladdr=None) -> list:
    """The messages that a digest may be of: (form, message) for each, first the one that we send.

    The forms differ in link-local addresses: "with" the configured ones, as FreeBSD and NetBSD
    sign; "without" them, as OpenBSD sends; "automatic", with the configured ones and the one that
    OpenBSD's carp interface derives from its MAC, which OpenBSD accepts, too. A virtual host
    without link-local addresses has "plain" instead of the first two; in dialect "openbsd" it has
    "automatic" as well.

    An OpenBSD interface with `lladdr` may have the automatic address of that MAC, that of the
    virtual MAC, or both, depending on what was configured first. All three are accepted, and the
    form sent in dialect "openbsd" does not depend on it. If a configured link-local address is
    the automatic one, those two forms are the same, "plain".
    Source: carp_hmac_prepare_ctx and carp_set_enaddr in OpenBSD's ip_carp.c.
    """
    cdef list every = list(addresses)
    cdef bytes virtual = automatic_link_local(bytes((0, 0, 0x5E, 0, 1, vhid)))
    cdef bint local = any(len(data) == 16 and data[:2] == LINK_LOCAL for data in every)
    cdef bint openbsd = dialect == "openbsd"
    automatic = [[virtual]]
    if lladdr is not None:
        own = automatic_link_local(lladdr)
        automatic += [[own], [own, virtual]]
    without = signed_message(vhid, every, lladdr=lladdr, link_local=False)
    with_configured = signed_message(vhid, every, lladdr=lladdr)
    with_automatic = [("automatic", signed_message(vhid, every + more, lladdr=lladdr))
                      for more in automatic]
    if not local:
        return [("plain", without), *(with_automatic if openbsd else ())]
    nothing = signed_message(vhid, (), lladdr=lladdr)
    forms = [("with", with_configured), ("without", without), *with_automatic]
    if openbsd:
        first = 2 if without == nothing and lladdr is None else 1
        forms.insert(0, forms.pop(first))
    found = {}
    for form, message in forms:
        # If the automatic address is configured, all sign alike, whatever the form is called.
        found[message] = "plain" if found.get(message, form) != form else form
    return [(form, message) for message, form in found.items()]


cdef int expect_bytes(data, tuple lengths, str what) except -1:
    if data is not None and len(data) not in lengths:
        words = " or ".join(map(str, lengths))
        raise ValueError(f"{what} has {words} bytes, not {len(data)}")
    return 0


cdef uint32_t source_flags(bint missing, bint missing6) noexcept:
    """The flags, for one order, of configured sources that are not addresses of this machine."""
    return (SOURCE_MISSING if missing else 0) | (SOURCE6_MISSING if missing6 else 0)


cdef Configured configured_by(dict keys) except *:
    """The engine's fields for these keys; keys that are not given have their defaults.

    Nearly always the result is the same as for the last host. Raises TypeError for unknown keys.
    """
    global last_keys, last_configured
    cdef Configured nothing
    cdef dict fields
    if keys != last_keys:
        memset(&nothing, 0, sizeof(nothing))
        fields, rest = nothing, dict(keys)
        for key in ALL_KEYS:
            given = rest.pop(key.argument, None)
            fields[key.field] = key.number(key.given(key.default) if given is None else given)
        if rest:
            raise TypeError(f"no key of a virtual host: {', '.join(rest)}")
        last_configured, last_keys = fields, keys
    return last_configured


# Kept for the next host: otherwise the blocks, which stay, would fill the gaps left by freed
# objects, and the blocks of hosts that advertise in sequence would be spread over the heap.
@freelist(1024)
cdef class PreparedHost:
    """A virtual host in the engine's form, ready to be added or to replace another.

    interface: the engine's number; addresses, unsigned_addresses, retired_addresses: sequences
    of (4 or 16 bytes, prefixlen); the unsigned ones are not in the digest, the retired ones are
    only removed; passphrase: 1 to 20 bytes, or a Passphrase, which many hosts may share;
    destination, destination6: the groups, 4 and 16 bytes; peers: unicast addresses of either
    family that replace the groups, at most PEERS_MAX; source, source6: 4 and 16 bytes, or None for
    the interface's; lladdr: 6 bytes or None, see signed_message(); counter: a lower bound of the
    first counter; broadcast: send to ff:ff:ff:ff:ff:ff, whatever the group; alternates: room for
    digests that stay accepted after a change; barred: another process of this machine has the
    host; withheld: it takes no part, in maintenance; group, group_all: the number of its group, 0:
    none, and whether that is demoted only when every member cannot be MASTER. The other keyword
    arguments are the keys of keys.py, times in ns; advertise_mac may also be 6 bytes.
    Raises ValueError, TypeError and OverflowError for values that do not fit.
    """

    def __cinit__(self):
        memset(&self.host, 0, sizeof(VirtualHost))

    def __init__(self, *, uint16_t interface, uint8_t vhid, addresses, passphrase not None,
                 unsigned_addresses=(), retired_addresses=(),
                 bytes destination=b"\xe0\x00\x00\x12",
                 bytes destination6=b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x12", peers=(),
                 bytes source=None, bytes source6=None, bytes lladdr=None, uint64_t counter=0,
                 bint alternates=False, bint broadcast=False, bint barred=False,
                 bint withheld=False, uint16_t group=0, bint group_all=False, **keys):
        cdef VirtualHost* host = &self.host
        cdef bytes own_mac = None
        if not 1 <= vhid or not addresses:
            raise ValueError("a virtual host needs a vhid, an address and a passphrase")
        if interface >= _MAX_INTERFACES:
            raise ValueError(f"interface out of range: numbers are below {_MAX_INTERFACES}")
        if len(peers) > PEERS_MAX:
            raise ValueError(f"{len(peers)} peers, at most {PEERS_MAX}")
        expect_bytes(lladdr, (6,), "a MAC")
        host.interface, host.vhid = interface, vhid
        host.counter = counter
        host.flags = (BARRED if barred else 0) | (WITHHELD if withheld else 0)
        host.group, host.group_all = group, group_all
        if isinstance(keys.get("advertise_mac"), bytes):
            own_mac = keys.pop("advertise_mac")
            expect_bytes(own_mac, (6,), "a MAC")
        host.configured = configured_by(keys)
        if own_mac is not None:
            host.configured.advertise_mac = OWN_MAC
        if not host.configured.dead_ratio or not host.configured.announce_count:
            raise ValueError("dead_ratio and announce_count are at least 1")
        self.set_sources(source, source6)
        outputs = list(peers) or self.groups(addresses, destination, destination6)
        signed = signed_forms(vhid, [data for data, _ in addresses], lladdr=lladdr,
                              dialect=DIALECTS.values[host.configured.dialect])
        keys = [message for _, message in signed]
        self.host.block = new_block(
            len(addresses) + len(unsigned_addresses) + len(retired_addresses), len(outputs),
            len(keys) - 1 + (ALTERNATE_KEYS * len(keys) if alternates else 0))
        self.fill_addresses(addresses, unsigned_addresses, retired_addresses)
        self.fill_outputs(outputs, bool(peers), broadcast)
        self.fill_keys(as_passphrase(passphrase), keys)
        if own_mac is not None:
            memcpy(host.block.mac, <const char*>own_mac, 6)

    cdef set_sources(self, bytes source, bytes source6):
        expect_bytes(source, (4,), "an IPv4 address")
        expect_bytes(source6, (16,), "an IPv6 address")
        if source is not None:
            self.host.configured.own_source = True
            memcpy(self.host.source4, <const char*>source, 4)
        if source6 is not None:
            self.host.configured.own_source6 = True
            memcpy(self.host.source6, <const char*>source6, 16)

    cdef list groups(self, addresses, bytes destination, bytes destination6):
        """The group of each family of the signed addresses, IPv4 first."""
        expect_bytes(destination, (4,), "an IPv4 address")
        expect_bytes(destination6, (16,), "an IPv6 address")
        families = {len(data) for data, _ in addresses}
        return [group for group in (destination, destination6) if len(group) in families]

    cdef fill_addresses(self, addresses, free_addresses, retired):
        # The kernel has an IPv6 address only once, whatever its prefix length, so retired addresses
        # are removed first. It can have both forms of an IPv4 address, so routes that depend on it
        # stay.
        cdef Address* address = self.host.block.addresses
        cdef bytes data
        six = [(data, prefixlen) for data, prefixlen in retired if len(data) == 16]
        rest = [(data, prefixlen) for data, prefixlen in retired if len(data) != 16]
        for some, flag in ((six, RETIRED), (addresses, SIGNED), (free_addresses, 0),
                           (rest, RETIRED)):
            for data, prefixlen in some:
                expect_bytes(data, (4, 16), "an address")
                memcpy(address.bytes, <const char*>data, len(data))
                address.family = 4 if len(data) == 4 else 6
                address.prefixlen, address.flags = prefixlen, flag
                address += 1

    cdef fill_outputs(self, list destinations, bint unicast, bint broadcast):
        cdef Output* output = self.host.block.outputs
        cdef bytes data, mac
        for data in destinations:
            expect_bytes(data, (4, 16), "an address")
            output.unicast = unicast
            memcpy(output.destination, <const char*>data, len(data))
            if len(data) == 4:
                output.family, output.length = 4, ADVERTISEMENT4_LENGTH
                output.carp_at = ETHERNET_LENGTH + IPV4_LENGTH
                self.host.configured.expects_4 = True
            else:
                output.family, output.length = 6, ADVERTISEMENT6_LENGTH
                output.carp_at = ETHERNET_LENGTH + IPV6_LENGTH
                self.host.configured.expects_6 = True
            mac = b"\xff" * 6 if broadcast else multicast_mac(data)
            memcpy(output.destination_mac, <const char*>mac, 6)
            output += 1

    cdef fill_keys(self, Passphrase passphrase, list messages):
        cdef bytes message = messages[0]
        cdef AlternateKey* alternate = self.host.block.alternates
        auth_continue(&self.host.key, &passphrase.states, message, <uint32_t>len(message))
        self.host.block.permanent_count = len(messages) - 1
        for message in messages[1:]:
            auth_continue(&alternate.key, &passphrase.states, message, <uint32_t>len(message))
            alternate.until_ns = FOREVER_NS
            alternate += 1

    @property
    def configured(self) -> dict:
        """The engine's fields, by name, as numbers; see Configured in _vhid.pxd."""
        return self.host.configured

    cdef VirtualHost* give_away(self) except NULL:
        """The host for one order; the engine owns its block from now on."""
        if self.given:
            raise ValueError("this PreparedHost was given away already")
        self.given = True
        return &self.host

    def __dealloc__(self):
        if not self.given:
            free(self.host.block)
