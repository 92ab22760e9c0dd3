"""The system calls of the engine: Linux's epoll, accept4, and plain sockets. Inline C for socket_set.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.uio cimport iovec

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int count, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    int SOCK_NONBLOCK, SOCK_CLOEXEC, SHUT_WR, SOL_SOCKET, SO_LINGER, MSG_NOSIGNAL, AF_INET, AF_INET6
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct linger:
        int l_onoff
        int l_linger
    ctypedef unsigned int socklen_t
    int accept4(int fd, sockaddr* address, socklen_t* address_bytes, int flags)
    int getpeername(int fd, sockaddr* address, socklen_t* address_bytes)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t value_bytes)
    int shutdown(int fd, int how)
    Py_ssize_t recv(int fd, void* buffer, size_t count, int flags)
    Py_ssize_t send(int fd, const void* buffer, size_t count, int flags)
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    Py_ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        in_addr sin_addr
    cdef struct sockaddr_in6:
        in6_addr sin6_addr
    cdef struct sockaddr_storage:
        unsigned short ss_family

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP, TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* text, socklen_t text_bytes)
    int inet_pton(int family, const char* text, void* address)


cdef inline int64_t monotonic_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000 + now.tv_nsec // 1_000_000


cdef inline int64_t unix_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1_000 + now.tv_nsec // 1_000_000


cdef inline Py_ssize_t send_pieces(int fd, iovec* pieces, int count) noexcept nogil:
    """Send what the socket takes at once, as send() does."""
    cdef msghdr message
    if count == 1:
        return send(fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL)
    memset(&message, 0, sizeof(message))
    message.msg_iov = pieces
    message.msg_iovlen = count
    return sendmsg(fd, &message, MSG_NOSIGNAL)


cdef inline void reset_on_close(int fd) noexcept nogil:
    """close() will send RST and drop what is unsent, instead of keeping the socket until the peer took it."""
    cdef linger now
    now.l_onoff = 1
    now.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
