"""Who is at the other end: proxies that are trusted, and how many sockets each client address holds.

A counted address is an entry of 24 bytes and a bucket of 4; a socket holds its entry's number, the ticket, so that
its end needs neither a lookup nor its address. IPv6 is counted by /64, of which one client has all. The hash is
folded multiplication under seeds of the process: nobody outside can aim at one bucket.
"""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from gateway._fast.address cimport (
    ADDRESS_BYTES, MAPPED_BYTES, Address, address_from_ipv4, address_from_text_any, address_is_ipv4,
)

UNCOUNTED = PEER_UNCOUNTED
FLOODING = PEER_FLOODING

cdef enum:
    ENTRIES_MIN = 64
    NONE = -1

cdef extern from "<sys/random.h>" nogil:
    Py_ssize_t getrandom(void* buffer, size_t count, unsigned int flags)

cdef extern from *:
    """
    static inline uint64_t fold(uint64_t a, uint64_t b) {
        unsigned __int128 wide = (unsigned __int128)a * b;
        return (uint64_t)wide ^ (uint64_t)(wide >> 64);
    }
    """
    uint64_t fold(uint64_t a, uint64_t b) noexcept nogil


cdef class Peers:
    """peers.pyi is its contract."""

    def __cinit__(self):
        self._free = NONE

    def __init__(self, networks not None, int32_t per_address):
        if per_address < 0:
            raise ValueError("per_address must not be negative")
        if self._networks != NULL or self._entries != NULL:
            raise RuntimeError("made once")
        self.per_address = per_address
        if getrandom(self._seeds, sizeof(self._seeds), 0) != sizeof(self._seeds):
            raise OSError("getrandom")
        self._networks = <Network*>calloc(max(len(networks), 1), sizeof(Network))
        if self._networks == NULL:
            raise MemoryError()
        for packed, bits in networks:
            self._add(packed, bits)

    def __dealloc__(self):
        free(self._entries)
        free(self._buckets)
        free(self._networks)

    cdef object _add(self, bytes packed, int bits):
        """One network, 4 or 16 bytes."""
        cdef Network* network = &self._networks[self._networks_count]
        if len(packed) not in (4, ADDRESS_BYTES) or not 0 <= bits <= 8 * len(packed):
            raise ValueError("a network has 4 or 16 bytes and as many bits at most")
        if len(packed) == 4:
            address_from_ipv4(&network.address, <const char*>packed)
            network.bits = bits + 8 * MAPPED_BYTES
        else:
            memcpy(network.address.data, <const char*>packed, ADDRESS_BYTES)
            network.bits = bits
        self._networks_count += 1

    # --- from Python --------------------------------------------------------
    def trusts(self, str address not None):
        """Is it a proxy's address? See peers.pyi."""
        cdef Address parsed
        return address_from_text_any(&parsed, address) and self.trusted(&parsed)

    def enter(self, str address not None):
        """Count a socket; its ticket. See peers.pyi."""
        cdef Address parsed
        return self.take(&parsed) if address_from_text_any(&parsed, address) else PEER_UNCOUNTED

    def leave(self, int32_t ticket):
        """The socket is gone. See peers.pyi."""
        if ticket >= self._capacity or (ticket >= 0 and self._entries[ticket].count == 0):
            raise ValueError("no such ticket")
        self.give(ticket)

    def crowded(self, int32_t ticket):
        """Does the address hold more than it may? See peers.pyi."""
        if ticket >= self._capacity:
            raise ValueError("no such ticket")
        return self.over(ticket)

    def __len__(self):
        return self._used

    # --- from C -------------------------------------------------------------
    cdef bint trusted(self, const Address* address) noexcept nogil:
        cdef const Network* network
        cdef int whole
        cdef int rest
        cdef int i
        cdef int n
        for n in range(self._networks_count):
            network = &self._networks[n]
            whole, rest = network.bits // 8, network.bits % 8
            for i in range(whole):
                if address.data[i] != network.address.data[i]:
                    break
            else:
                if rest == 0 or (address.data[whole] ^ network.address.data[whole]) >> (8 - rest) == 0:
                    return True
        return False

    cdef int32_t take(self, const Address* address) noexcept nogil:
        """enter() of a parsed address."""
        cdef uint64_t high
        cdef uint64_t low
        cdef int32_t* bucket
        cdef PeerEntry* entry
        cdef int32_t index
        if self.per_address == 0 or self.trusted(address):
            return PEER_UNCOUNTED
        memcpy(&high, &address.data[0], 8)
        memcpy(&low, &address.data[8], 8)
        if not address_is_ipv4(address):
            low = 0
        if self._free == NONE and not self._grow():
            return PEER_UNCOUNTED
        bucket = &self._buckets[fold(high ^ self._seeds[0], low ^ self._seeds[1]) & <uint64_t>(self._capacity - 1)]
        index = bucket[0]
        while index != NONE and (self._entries[index].high != high or self._entries[index].low != low):
            index = self._entries[index].after
        if index == NONE:
            index = self._free
            entry = &self._entries[index]
            self._free = entry.after
            entry.high, entry.low, entry.count, entry.after = high, low, 0, bucket[0]
            bucket[0] = index
            self._used += 1
        entry = &self._entries[index]
        if entry.count // 2 >= self.per_address:
            return PEER_FLOODING
        entry.count += 1
        return index

    cdef void give(self, int32_t ticket) noexcept nogil:
        """leave() of a ticket that is one."""
        cdef PeerEntry* entry
        cdef int32_t* link
        if ticket < 0:
            return
        entry = &self._entries[ticket]
        entry.count -= 1
        if entry.count > 0:
            return
        link = &self._buckets[
            fold(entry.high ^ self._seeds[0], entry.low ^ self._seeds[1]) & <uint64_t>(self._capacity - 1)
        ]
        while link[0] != ticket:
            link = &self._entries[link[0]].after
        link[0] = entry.after
        entry.after = self._free
        self._free = ticket
        self._used -= 1

    cdef bint over(self, int32_t ticket) noexcept nogil:
        return ticket >= 0 and self._entries[ticket].count > self.per_address

    cdef bint _grow(self) noexcept nogil:
        """Twice the entries; tickets stay what they are. False without memory."""
        cdef int32_t capacity = self._capacity * 2 if self._capacity else ENTRIES_MIN
        cdef PeerEntry* entries = <PeerEntry*>realloc(self._entries, capacity * sizeof(PeerEntry))
        cdef int32_t* buckets
        cdef int32_t* bucket
        cdef int32_t i
        if entries == NULL:
            return False
        self._entries = entries
        buckets = <int32_t*>realloc(self._buckets, capacity * sizeof(int32_t))
        if buckets == NULL:
            return False
        self._buckets = buckets
        for i in range(capacity):
            buckets[i] = NONE
        for i in range(self._capacity):  # all in use, else there was no need to grow
            bucket = &buckets[
                fold(entries[i].high ^ self._seeds[0], entries[i].low ^ self._seeds[1]) & <uint64_t>(capacity - 1)
            ]
            entries[i].after = bucket[0]
            bucket[0] = i
        for i in range(self._capacity, capacity):
            entries[i].count = 0
            entries[i].after = i + 1 if i + 1 < capacity else NONE
        self._free = self._capacity
        self._capacity = capacity
        return True
