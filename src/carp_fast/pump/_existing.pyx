"""The addresses of an interface as the kernel has them: read by dumps, looked up by address.

So are our local routes: the kernel's dump of them is filtered by table, protocol, type and device.
But it walks all routes of the machine for that if it keeps local and main table in one, as it does
while there are no policy rules: 85 ms for a million. Uses no engine and no clock.
"""

from libc.errno cimport E2BIG, EAGAIN, EBUSY, EINTR, ENOBUFS, ENODEV, ENOENT, EPIPE, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from carp_fast.pump._netlink cimport (
    ATTEMPTS, attribute_in, begin_request, Change, DUMP_ROOM, Existing, Found, FOUND_FOREIGN,
    FOUND_NONE, FOUND_OURS, FOUND_ROOM, FOUND_UNKNOWN, FOUND_UNMARKED, FoundAddress, ifaddrmsg,
    LOOK_PARTS, Netlink, nlattr, nlmsghdr, OWN_PROTOCOL, rtmsg, send_message)

cdef extern from "system.h" nogil:
    int AF_INET, AF_INET6, MSG_DONTWAIT
    int NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_ERROR, NLMSG_DONE
    int RTM_NEWADDR, RTM_GETADDR, IFA_ADDRESS, IFA_LOCAL, NLA_TYPE_MASK
    int RTM_NEWROUTE, RTM_GETROUTE, RT_TABLE_LOCAL, RTN_LOCAL, RTA_DST, RTA_OIF
    ssize_t recv(int fd, void* data, size_t length, int flags)

cdef enum:
    IFA_PROTO_TYPE = 11         # of an attribute; headers before Linux 5.18 do not define it
    OF_ROUTE = 255              # in the place of a prefix length: it is a local route of ours


cdef struct AddressRequest:     # RTM_GETADDR
    nlmsghdr header
    ifaddrmsg body


cdef struct RouteQuery:         # RTM_GETROUTE
    nlmsghdr header
    rtmsg body
    nlattr device
    uint32_t ifindex


cdef inline uint32_t address_hash(uint8_t family, uint8_t prefixlen,
                                  const uint8_t* address) noexcept nogil:
    """The prefix length as part of the key: the kernel's IPv4 addresses have it, IPv6 ones not."""
    cdef uint64_t x = family if family == 6 else <uint64_t>prefixlen << 8 | family
    cdef uint32_t i
    for i in range(address_size(family)):
        x = (x ^ address[i]) * <uint64_t>0x100000001b3ULL
    return <uint32_t>(x ^ x >> 32)


cdef uint32_t found_place(const Existing* existing, uint8_t family, uint8_t prefixlen,
                          const uint8_t* address) noexcept nogil:
    """The place of an address among the results of the last look, or a free one."""
    cdef uint32_t at = address_hash(family, prefixlen, address) & (FOUND_ROOM - 1)
    cdef const FoundAddress* found = &existing.found[at]
    while found.look == existing.look and not (
            found.family == family and (family == 6 or found.prefixlen == prefixlen)
            and memcmp(found.bytes, address, address_size(family)) == 0):
        at = (at + 1) & (FOUND_ROOM - 1)
        found = &existing.found[at]
    return at


cdef inline uint32_t part_of(uint8_t family, const uint8_t* address,
                             uint32_t parts) noexcept nogil:
    """The part is that of an address, also of its route, whatever its prefix length."""
    return (address_hash(family, 0, address) >> 16) % parts


cdef Found netlink_found(const Netlink* netlink, const Existing* existing, uint8_t family,
                         uint8_t prefixlen, const uint8_t* address) noexcept nogil:
    """The result of a look for an address of its interface. Reads `existing` alone."""
    cdef const FoundAddress* found
    if not existing.ifindex or part_of(family, address, existing.parts) != existing.part:
        return FOUND_UNKNOWN
    found = &existing.found[found_place(existing, family, prefixlen, address)]
    if found.look != existing.look:
        return FOUND_NONE
    if not netlink.marks:
        return FOUND_UNMARKED
    return FOUND_OURS if found.marked and found.prefixlen == prefixlen else FOUND_FOREIGN


cdef Found netlink_found_route(const Existing* existing, const uint8_t* address) noexcept nogil:
    """Whether a look found a local route of ours to an IPv4 address: FOUND_OURS or FOUND_NONE.

    FOUND_UNKNOWN: it did not look for it.
    """
    if (not existing.ifindex or not existing.routes
            or part_of(4, address, existing.parts) != existing.part):
        return FOUND_UNKNOWN
    if existing.found[found_place(existing, 4, OF_ROUTE, address)].look != existing.look:
        return FOUND_NONE
    return FOUND_OURS


cdef Found netlink_whose(Netlink* netlink, const Change* change) noexcept nogil:
    """The origin of what a change is about, an address or a local route of ours; looks at its
    interface, unless this batch did so last.
    """
    cdef Existing* existing = &netlink.existing
    cdef Found found = FOUND_UNKNOWN
    cdef uint32_t parts = 1
    cdef int error = E2BIG
    if existing.ifindex == change.ifindex:
        found = found_for(netlink, change)
        parts = existing.parts
    while found == FOUND_UNKNOWN and error == E2BIG and parts <= LOOK_PARTS:
        error = netlink_look(netlink, existing, change.ifindex,
                             part_of(change.family, change.address, parts), parts,
                             change.routed or existing.routes)
        if error == ENODEV:
            return FOUND_NONE
        if not error:
            found = found_for(netlink, change)
        parts *= 2
    return found


cdef inline Found found_for(const Netlink* netlink, const Change* change) noexcept nogil:
    if change.routed:
        return netlink_found_route(&netlink.existing, change.address)
    return netlink_found(netlink, &netlink.existing, change.family, change.prefixlen,
                         change.address)


cdef int netlink_look(Netlink* netlink, Existing* existing, int32_t ifindex, uint32_t part,
                      uint32_t parts, bint routes) noexcept nogil:
    """Read an interface's addresses from the kernel, and keep those of one of `parts` parts.

    `routes`: read our local routes, too. 0 or an errno; E2BIG if they need more than half of
    FOUND_ROOM: more parts are needed.
    """
    cdef int _, error = EAGAIN
    for _ in range(ATTEMPTS):
        existing.look += 1
        existing.part, existing.parts = part, parts
        existing.kept, existing.routes = 0, routes
        error = ask_for_addresses(netlink, ifindex)
        if not error:
            error = read_dump(netlink, existing, ifindex)
        if not error and routes:
            error = ask_for_routes(netlink, ifindex)
            if not error:
                error = read_dump(netlink, existing, ifindex)
            if error == ENOENT:                     # the table does not exist yet
                error = 0
        if error != EAGAIN and error != EBUSY:
            break
    existing.ifindex = ifindex if not error else 0
    return error


cdef int ask_for_addresses(Netlink* netlink, int32_t ifindex) noexcept nogil:
    cdef AddressRequest request
    begin_request(netlink, &request.header, sizeof(request), RTM_GETADDR, NLM_F_DUMP)
    request.body.ifa_index = <unsigned int>ifindex
    return send_message(netlink, &request, sizeof(request))


cdef int ask_for_routes(Netlink* netlink, int32_t ifindex) noexcept nogil:
    cdef RouteQuery request
    begin_request(netlink, &request.header, sizeof(request), RTM_GETROUTE, NLM_F_DUMP)
    request.body.rtm_family = <unsigned char>AF_INET
    request.body.rtm_table = <unsigned char>RT_TABLE_LOCAL
    request.body.rtm_protocol = OWN_PROTOCOL
    request.body.rtm_type = <unsigned char>RTN_LOCAL
    request.device.nla_type, request.device.nla_len = <unsigned short>RTA_OIF, sizeof(nlattr) + 4
    request.ifindex = <uint32_t>ifindex
    return send_message(netlink, &request, sizeof(request))


cdef int read_dump(Netlink* netlink, Existing* existing, int32_t ifindex) noexcept nogil:
    """Read a dump to its end, even after an error, since the next one cannot begin before.

    0 or an errno: EAGAIN if addresses changed meanwhile, or a message was lost.
    """
    cdef ssize_t length
    cdef size_t at
    cdef const nlmsghdr* header
    cdef int error = 0
    while True:
        length = recv(netlink.fd, netlink.dump, DUMP_ROOM, MSG_DONTWAIT)
        if length < 0:
            if errno == EINTR:
                continue
            if errno != ENOBUFS:
                return errno                        # EAGAIN: the end is missing
            error = EAGAIN
            continue
        if length == 0:
            return EPIPE                            # the other end is closed
        at = 0
        while at + sizeof(nlmsghdr) <= <size_t>length:
            header = <const nlmsghdr*>(netlink.dump + at)
            if header.nlmsg_len < sizeof(nlmsghdr) or at + header.nlmsg_len > <size_t>length:
                break
            if header.nlmsg_seq == netlink.sequence:
                if header.nlmsg_flags & NLM_F_DUMP_INTR:
                    error = EAGAIN
                if header.nlmsg_type == NLMSG_DONE or header.nlmsg_type == NLMSG_ERROR:
                    if header.nlmsg_len >= sizeof(nlmsghdr) + 4 and (<const int*>(header + 1))[0]:
                        return -(<const int*>(header + 1))[0]
                    return error
                if not error:
                    if header.nlmsg_type == RTM_NEWADDR:
                        keep_address(existing, ifindex, header)
                    elif header.nlmsg_type == RTM_NEWROUTE:
                        keep_route(existing, ifindex, header)
                    if existing.kept > FOUND_ROOM // 2:
                        error = E2BIG
            at += (header.nlmsg_len + 3) & ~<uint32_t>3


cdef void keep(Existing* existing, uint8_t family, uint8_t prefixlen, const uint8_t* address,
               bint marked) noexcept nogil:
    """Keep what a dump found, if it belongs to this part."""
    cdef FoundAddress* place
    if part_of(family, address, existing.parts) != existing.part:
        return
    place = &existing.found[found_place(existing, family, prefixlen, address)]
    place.look, place.family, place.marked = existing.look, family, marked
    place.prefixlen = prefixlen
    memcpy(place.bytes, address, address_size(family))
    existing.kept += 1


cdef void keep_address(Existing* existing, int32_t ifindex,
                       const nlmsghdr* header) noexcept nogil:
    """Keep one address of a dump."""
    cdef const ifaddrmsg* body = <const ifaddrmsg*>(header + 1)
    cdef size_t at = sizeof(nlmsghdr) + sizeof(ifaddrmsg)
    cdef const nlattr* attribute
    cdef const uint8_t* address = NULL
    cdef uint8_t family, marked = 0
    cdef int kind
    if header.nlmsg_len < at or <int32_t>body.ifa_index != ifindex:
        return                                      # an old kernel dumps all interfaces
    if body.ifa_family != AF_INET and body.ifa_family != AF_INET6:
        return
    family = 4 if body.ifa_family == AF_INET else 6
    while at + sizeof(nlattr) <= header.nlmsg_len:
        attribute = <const nlattr*>(<const uint8_t*>header + at)
        if attribute.nla_len < sizeof(nlattr) or at + attribute.nla_len > header.nlmsg_len:
            break
        kind = attribute.nla_type & NLA_TYPE_MASK
        # On a point-to-point link IFA_ADDRESS is the peer's; only IPv6 leaves out IFA_LOCAL.
        if (kind == IFA_LOCAL or kind == IFA_ADDRESS and address == NULL) and (
                attribute.nla_len == sizeof(nlattr) + address_size(family)):
            address = <const uint8_t*>(attribute + 1)
        elif kind == IFA_PROTO_TYPE and attribute.nla_len > sizeof(nlattr):
            marked = (<const uint8_t*>(attribute + 1))[0] == OWN_PROTOCOL
        at += (attribute.nla_len + 3) & ~3
    if address != NULL:
        keep(existing, family, body.ifa_prefixlen, address, marked)


cdef void keep_route(Existing* existing, int32_t ifindex, const nlmsghdr* header) noexcept nogil:
    """Keep one route of a dump, if it is a local one of ours on the interface."""
    cdef const rtmsg* body = <const rtmsg*>(header + 1)
    cdef size_t skip = sizeof(nlmsghdr) + sizeof(rtmsg)
    cdef const nlattr* destination
    cdef const nlattr* device
    if (header.nlmsg_len < skip or body.rtm_family != AF_INET or body.rtm_dst_len != 32
            or body.rtm_table != RT_TABLE_LOCAL or body.rtm_protocol != OWN_PROTOCOL
            or body.rtm_type != RTN_LOCAL):
        return
    destination = attribute_in(<const uint8_t*>header + skip, header.nlmsg_len - skip, RTA_DST)
    device = attribute_in(<const uint8_t*>header + skip, header.nlmsg_len - skip, RTA_OIF)
    if (destination == NULL or destination.nla_len != sizeof(nlattr) + 4 or device == NULL
            or device.nla_len != sizeof(nlattr) + 4
            or (<const int32_t*>(device + 1))[0] != ifindex):
        return
    keep(existing, 4, OF_ROUTE, <const uint8_t*>(destination + 1), True)
