"""Addresses of clients as 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2). Inline C."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from gateway._fast.sockets cimport (
    AF_INET, AF_INET6, getpeername, inet_ntop, inet_pton, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage,
    socklen_t,
)

cdef enum:
    ADDRESS_BYTES = 16
    MAPPED_BYTES = 12  # before the four of an IPv4 address

cdef struct Address:
    uint8_t data[ADDRESS_BYTES]


cdef inline void address_from_ipv4(Address* self, const void* four) noexcept nogil:
    memset(self.data, 0, MAPPED_BYTES - 2)
    self.data[10] = self.data[11] = 0xFF
    memcpy(&self.data[MAPPED_BYTES], four, 4)


cdef inline bint address_is_ipv4(const Address* self) noexcept nogil:
    cdef int i
    for i in range(MAPPED_BYTES - 2):
        if self.data[i] != 0:
            return False
    return self.data[10] == 0xFF and self.data[11] == 0xFF


cdef inline bint address_from_socket(Address* self, const sockaddr_storage* address) noexcept nogil:
    """False for a Unix socket."""
    if address.ss_family == AF_INET:
        address_from_ipv4(self, &(<const sockaddr_in*>address).sin_addr)
    elif address.ss_family == AF_INET6:
        memcpy(self.data, &(<const sockaddr_in6*>address).sin6_addr, ADDRESS_BYTES)
    else:
        return False
    return True


cdef inline bint address_from_text(Address* self, int family, const char* text) noexcept nogil:
    """`text` ends in a zero. False: it is no address of the family; zones and ports are none either."""
    cdef uint8_t data[ADDRESS_BYTES]
    if inet_pton(family, text, data) != 1:
        return False
    if family == AF_INET:
        address_from_ipv4(self, data)
    else:
        memcpy(self.data, data, ADDRESS_BYTES)
    return True


cdef inline bint address_from_text_any(Address* self, str text) except -1:
    """Of either family. False: the text is no address."""
    cdef bytes raw = text.encode("ascii", "replace")
    if b"\x00" in raw:
        return False
    return address_from_text(self, AF_INET, raw) or address_from_text(self, AF_INET6, raw)


cdef inline str address_to_text(const Address* self):
    cdef char text[46]  # INET6_ADDRSTRLEN
    if address_is_ipv4(self):
        inet_ntop(AF_INET, &self.data[MAPPED_BYTES], text, sizeof(text))
    else:
        inet_ntop(AF_INET6, self.data, text, sizeof(text))
    return (<bytes>text).decode("ascii")


cdef inline str peer_address(int fd):
    """The client's address without its port; "" for a Unix socket or a socket that is gone."""
    cdef sockaddr_storage storage
    cdef socklen_t storage_bytes = sizeof(storage)
    cdef Address address
    if getpeername(fd, <sockaddr*>&storage, &storage_bytes) != 0 or not address_from_socket(&address, &storage):
        return ""
    return address_to_text(&address)
