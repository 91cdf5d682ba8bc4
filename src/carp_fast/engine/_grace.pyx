"""Digests of former keys: which ones a virtual host accepts for a while after a change.

Changes only the room for them in a host's block. Uses no socket and no clock.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp

from carp_fast.engine._auth cimport AuthKey
from carp_fast.engine._vhid cimport AlternateKey, Block, VirtualHost


cdef void keep_old_keys(const VirtualHost* host, const VirtualHost* wanted, int64_t until_ns,
                        int64_t now_ns) noexcept nogil:
    """Carry the accepted digests over to the new block; the oldest give way to the former key's.

    Without a grace time the former key is not accepted any more, and takes no place of another.

    Every form of the former key that the new key does not have is kept, whatever becomes of the
    other forms: a change of link-local addresses or of the dialect may leave the form that we send
    as it is, and change those that others send. Our own form is kept last, so nothing replaces it.
    """
    cdef Block* block = wanted.block
    cdef uint32_t i, at = block.permanent_count
    cdef const AlternateKey* former
    for i in range(host.block.permanent_count, host.block.alternate_count):
        former = &host.block.alternates[i]
        if at < block.alternate_count and former.until_ns > now_ns:
            block.alternates[at] = former[0]
            at += 1
    if until_ns <= now_ns:
        return
    for i in range(host.block.permanent_count, 0, -1):
        former = &host.block.alternates[i - 1]
        if not is_form(wanted, &former.key):
            keep_key(block, &former.key, until_ns)
    if not is_form(wanted, &host.key):
        keep_key(block, &host.key, until_ns)


cdef bint is_form(const VirtualHost* host, const AuthKey* key) noexcept nogil:
    """Whether the host accepts this key's digests without a time limit."""
    cdef uint32_t i
    if memcmp(&host.key, key, sizeof(AuthKey)) == 0:
        return True
    for i in range(host.block.permanent_count):
        if memcmp(&host.block.alternates[i].key, key, sizeof(AuthKey)) == 0:
            return True
    return False


cdef void keep_key(Block* block, const AuthKey* key, int64_t until_ns) noexcept nogil:
    cdef uint32_t i, oldest = block.permanent_count
    for i in range(block.permanent_count, block.alternate_count):
        if block.alternates[i].until_ns < block.alternates[oldest].until_ns:
            oldest = i
    if oldest < block.alternate_count:
        block.alternates[oldest].key = key[0]
        block.alternates[oldest].until_ns = until_ns
