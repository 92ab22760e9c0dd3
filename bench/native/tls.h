/* A client's bytes on their way: plain, or TLS 1.3 in a build with BENCH_TLS. No certificate is verified: the load
 * connects to what was started beside it. */
#ifndef BENCH_TLS_H
#define BENCH_TLS_H

#include <sys/socket.h>

#ifdef BENCH_TLS
#include <openssl/ssl.h>

typedef SSL *tls_state;
static SSL_CTX *tls_context;

static void tls_open(void) {
    tls_context = SSL_CTX_new(TLS_client_method());
    if (tls_context == NULL || !SSL_CTX_set_min_proto_version(tls_context, TLS1_3_VERSION)) die("OpenSSL");
    SSL_CTX_set_mode(tls_context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(tls_context, 1);
}

/* Go on with the handshake: 1 done, 0 more of the server is needed, -1 failed. */
static int tls_handshake(tls_state *tls, int fd) {
    if (*tls == NULL) {
        *tls = SSL_new(tls_context);
        if (*tls == NULL || !SSL_set_fd(*tls, fd)) die("OpenSSL");
        SSL_set_connect_state(*tls);
    }
    int result = SSL_do_handshake(*tls);
    if (result == 1) return 1;
    return SSL_get_error(*tls, result) == SSL_ERROR_WANT_READ ? 0 : -1;
}

static ssize_t tls_send(tls_state tls, int fd, const void *data, size_t count) {
    (void)fd;
    return SSL_write(tls, data, (int)count);
}

static ssize_t tls_recv(tls_state tls, int fd, void *data, size_t size) {
    (void)fd;
    int got = SSL_read(tls, data, (int)size);
    if (got > 0) return got;
    int why = SSL_get_error(tls, got);
    if (why == SSL_ERROR_ZERO_RETURN) return 0;
    errno = why == SSL_ERROR_WANT_READ ? EAGAIN : ECONNRESET;
    return -1;
}

/* Bytes were read from the socket that no tls_recv() has given out yet. */
static int tls_holds(tls_state tls) { return tls != NULL && SSL_has_pending(tls); }

static void tls_free(tls_state tls) { SSL_free(tls); }

#else

typedef char tls_state;

static void tls_open(void) {}
static int tls_handshake(tls_state *tls, int fd) {
    (void)tls, (void)fd;
    return 1;
}
static ssize_t tls_send(tls_state tls, int fd, const void *data, size_t count) {
    (void)tls;
    return send(fd, data, count, MSG_NOSIGNAL);
}
static ssize_t tls_recv(tls_state tls, int fd, void *data, size_t size) {
    (void)tls;
    return recv(fd, data, size, 0);
}
static int tls_holds(tls_state tls) {
    (void)tls;
    return 0;
}
static void tls_free(tls_state tls) { (void)tls; }

#endif
#endif
