"""C side of peers: a carrier asks at accept and at the end of each socket."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

from gateway._fast.address cimport Address

cdef enum:
    PEER_UNCOUNTED = -1
    PEER_FLOODING = -2

cdef struct Network:
    Address address
    int bits

cdef struct PeerEntry:
    uint64_t high  # the address; of IPv6 the first half alone
    uint64_t low
    int32_t count
    int32_t after  # in its bucket; of a free entry the next free one

cdef class Peers:
    cdef:
        readonly int32_t per_address
        PeerEntry* _entries
        int32_t* _buckets  # as many as entries: a power of two
        Network* _networks
        int _networks_count
        int32_t _capacity
        int32_t _free
        int32_t _used
        uint64_t _seeds[2]

    cdef object _add(self, bytes packed, int bits)
    cdef bint trusted(self, const Address* address) noexcept nogil
    cdef int32_t take(self, const Address* address) noexcept nogil
    cdef void give(self, int32_t ticket) noexcept nogil
    cdef bint over(self, int32_t ticket) noexcept nogil
    cdef bint _grow(self) noexcept nogil
