"""Digests of former keys: which ones a virtual host accepts for a while after a change."""

from libc.stdint cimport int64_t

from carp_fast.engine._auth cimport AuthKey
from carp_fast.engine._vhid cimport Block, VirtualHost

cdef void keep_old_keys(const VirtualHost* host, const VirtualHost* wanted, int64_t until_ns,
                        int64_t now_ns) noexcept nogil
cdef bint is_form(const VirtualHost* host, const AuthKey* key) noexcept nogil
cdef void keep_key(Block* block, const AuthKey* key, int64_t until_ns) noexcept nogil
