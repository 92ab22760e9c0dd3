/* uWebSockets as a peer of the floor: its C++ through the C interface of libsocketify, which PyPI's socketify ships.
 *
 *     uws LIBRARY PORT FEED_PORT [CPU]
 *
 * PORT takes WebSocket clients, all subscribed to one topic. FEED_PORT takes batches as the floor's does; each item is
 * published to the topic, and acks are counted by nobody. A thread reads the feed and hands each batch to the loop.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH_BYTES_MAX = 1 << 20, HEADER_BYTES = 20, ITEM_BYTES = 48 };

/* As src/socketify/native/src/libsocketify.h of socketify 0.0.31 declares them. */
typedef void (*ws_handler)(void *ws, void *user);
struct behavior {
    int compression;
    unsigned int payload_bytes_max;
    unsigned short idle_timeout_s;
    unsigned int backpressure_bytes_max;
    bool close_on_backpressure, reset_idle_on_send, pings;
    unsigned short lifetime_max;
    void (*upgrade)(void *, void *, void *, void *);
    ws_handler open;
    void (*message)(void *ws, const char *message, size_t count, int opcode, void *user);
    ws_handler drain;
    void (*ping)(void *, const char *, size_t, void *);
    void (*pong)(void *, const char *, size_t, void *);
    void (*close)(void *, int, const char *, size_t, void *);
    void (*subscription)(void *, const char *, size_t, int, int, void *);
};
struct context_options {
    const char *key_file, *cert_file, *passphrase, *dh_params, *ca_file, *ciphers;
    int low_memory;
};
struct listen_config {
    int port;
    const char *host;
    int options;
};

static void *(*create_app)(int, struct context_options);
static void (*serve)(int, void *, const char *, struct behavior, void *);
static void (*listen_with)(int, void *, struct listen_config, void (*)(void *, struct listen_config, void *), void *);
static void (*run)(int, void *);
static bool (*publish)(int, void *, const char *, size_t, const char *, size_t, int, bool);
static bool (*subscribe)(int, void *, const char *, size_t);
static void *(*get_loop)(void);
static void (*defer)(void *, void (*)(void *), void *);

static void *app, *loop;
static int feed_listener, feed;

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

static void on_open(void *ws, void *user) {
    (void)user;
    subscribe(0, ws, "all", 3);
}

static void on_message(void *ws, const char *message, size_t count, int opcode, void *user) {
    (void)ws, (void)message, (void)count, (void)opcode, (void)user;
}

static void on_close(void *ws, int code, const char *message, size_t count, void *user) {
    (void)ws, (void)code, (void)message, (void)count, (void)user;
}

static void on_listen(void *socket, struct listen_config config, void *user) {
    (void)config, (void)user;
    if (socket == NULL) die("listen");
}

/* On the loop: a batch of the feed, its size before it. */
static void on_batch(void *data) {
    uint32_t size;
    memcpy(&size, data, sizeof(size));
    const char *batch = (const char *)data + sizeof(size), *at = batch + HEADER_BYTES;
    uint16_t count = get_u16(batch + 4);
    char reply[10 + UINT16_MAX] = {0};
    for (uint16_t i = 0; i < count; i++) {
        size_t tag_count = (uint8_t)at[3], body_count = get_u32(at + 4);
        const char *body = at + ITEM_BYTES + tag_count;
        if (body + body_count > batch + size) die("a batch was cut short");
        publish(0, app, "all", 3, body, body_count, OP_TEXT, false);
        at = body + body_count;
    }
    put_u32(reply, 6u + count);
    memcpy(reply + 4, (char[]){'H', 'R', 1, 0, batch[4], batch[5]}, 6);
    free(data);
    if (send(feed, reply, 10u + count, MSG_NOSIGNAL) < 0 && errno != EPIPE) die("feed");
}

static int read_all(char *to, size_t count) {
    while (count > 0) {
        ssize_t got = recv(feed, to, count, 0);
        if (got <= 0) return 0;
        to += got;
        count -= (size_t)got;
    }
    return 1;
}

static void *read_feed(void *unused) {
    (void)unused;
    while ((feed = accept(feed_listener, NULL, NULL)) >= 0) {
        char head[4];
        while (read_all(head, 4)) {
            uint32_t size = get_u32(head);
            if (size == 0 || size > BATCH_BYTES_MAX) break;
            char *data = grown(NULL, sizeof(size) + size);
            memcpy(data, &size, sizeof(size));
            if (!read_all(data + sizeof(size), size)) {
                free(data);
                break;
            }
            defer(loop, on_batch, data);
        }
        close(feed);
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: uws LIBRARY PORT FEED_PORT [CPU]\n");
        return 2;
    }
    raise_descriptors();
    if (count > 4) pin_to(atoi(arguments[4]));
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    create_app = symbol(library, "uws_create_app");
    serve = symbol(library, "uws_ws");
    listen_with = symbol(library, "uws_app_listen_with_config");
    run = symbol(library, "uws_app_run");
    publish = symbol(library, "uws_publish");
    subscribe = symbol(library, "uws_ws_subscribe");
    get_loop = symbol(library, "uws_get_loop");
    defer = symbol(library, "uws_loop_defer");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[3])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    feed_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(feed_listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(feed_listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(feed_listener, 8) != 0)
        die("listen");
    app = create_app(0, (struct context_options){0});
    loop = get_loop();
    serve(0, app, "/*", (struct behavior){.payload_bytes_max = 16384, .idle_timeout_s = 120, .pings = true,
                                          .backpressure_bytes_max = 1 << 20, .open = on_open, .message = on_message,
                                          .close = on_close}, NULL);
    listen_with(0, app, (struct listen_config){atoi(arguments[2]), "127.0.0.1", 0}, on_listen, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, read_feed, NULL) != 0) die("pthread_create");
    run(0, app);
    return 0;
}
