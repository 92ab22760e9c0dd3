/* The floor: the least that a WebSocket server for notifications can cost. One epoll loop in C, no session state.
 *
 *     floor PORT FEED_PORT [CPU]
 *
 * PORT takes WebSocket clients. A client's tag is its header X-Bench-Tag. FEED_PORT takes packed batches
 * (notification/batch.py), each behind its length (u32, network byte order); each item is routed by its tag through a
 * hash table and written as one frame; an item without a tag is written to all. The answer is the batch's reply behind
 * its length. A length of 0 asks for the counters, as JSON behind its length. Clients are pinged each 30 s.
 * No checksum, no window, no order, no outbox: what a full socket does not take is counted as short.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, READ_BYTES = 65536, BATCH_BYTES_MAX = 1 << 20, HEADER_BYTES = 20, ITEM_BYTES = 48 };
enum { PING_TICK_MS = 100, PING_TICKS = 300 };

struct client {
    int fd;       /* -1: free */
    uint32_t next_free;
    uint32_t hash;
    uint16_t kept_count;
    uint8_t open, tag_count;
    char *tag;
    char *kept; /* a part of a head or frame, only while it is a part */
};

enum { LISTENER = -1, FEED_LISTENER = -2, FEED = -3 };
static const uint32_t NONE = UINT32_MAX;

static struct client *clients;
static uint32_t clients_size, free_first = UINT32_MAX;
static uint32_t *table; /* open addressing: index of a client + 1 */
static uint32_t table_size = 1024, table_used;
static int epoll, listener, feed_listener, feed = -1;
static struct buffer feed_in, feed_out;
static char read_buffer[2 * READ_BYTES], frame_buffer[BATCH_BYTES_MAX];
static uint64_t delivered, acked, pongs, shorts, connects, live, ping_at;

/* --- the routing table ----------------------------------------------------- */
static uint32_t hash_of(const char *tag, size_t count) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < count; i++) hash = (hash ^ (uint8_t)tag[i]) * 16777619u;
    return hash;
}

static uint32_t find(const char *tag, size_t count) {
    uint32_t hash = hash_of(tag, count);
    for (uint32_t at = hash & (table_size - 1); table[at]; at = (at + 1) & (table_size - 1)) {
        struct client *client = &clients[table[at] - 1];
        if (client->hash == hash && client->tag_count == count && memcmp(client->tag, tag, count) == 0)
            return table[at] - 1;
    }
    return NONE;
}

static void place(uint32_t index) {
    uint32_t at = clients[index].hash & (table_size - 1);
    while (table[at]) at = (at + 1) & (table_size - 1);
    table[at] = index + 1;
}

static void route_add(uint32_t index) {
    if (2 * ++table_used > table_size) {
        uint32_t old_size = table_size, *old = table;
        table_size *= 2;
        table = calloc(table_size, sizeof(*table));
        if (table == NULL) die("calloc");
        for (uint32_t i = 0; i < old_size; i++)
            if (old[i]) place(old[i] - 1);
        free(old);
    }
    place(index);
}

static void route_remove(uint32_t index) {
    uint32_t mask = table_size - 1, at = clients[index].hash & mask;
    while (table[at] != index + 1) {
        if (table[at] == 0) return;
        at = (at + 1) & mask;
    }
    table_used--;
    table[at] = 0;
    for (at = (at + 1) & mask; table[at]; at = (at + 1) & mask) { /* close the gap */
        uint32_t moved = table[at] - 1;
        table[at] = 0;
        place(moved);
    }
}

/* --- clients ----------------------------------------------------------------- */
static void watch(int fd, int64_t who) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)who};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl");
}

static uint32_t client_new(int fd) {
    if (free_first == NONE) {
        uint32_t size = clients_size ? clients_size * 2 : 1024;
        clients = grown(clients, size * sizeof(*clients));
        for (uint32_t i = size; i-- > clients_size;) {
            clients[i].fd = -1;
            clients[i].next_free = free_first;
            free_first = i;
        }
        clients_size = size;
    }
    uint32_t index = free_first;
    free_first = clients[index].next_free;
    clients[index] = (struct client){.fd = fd};
    return index;
}

static void client_drop(uint32_t index) {
    struct client *client = &clients[index];
    close(client->fd);
    if (client->tag != NULL) route_remove(index);
    if (client->open) live--;
    free(client->tag);
    free(client->kept);
    *client = (struct client){.fd = -1, .next_free = free_first};
    free_first = index;
}

static int client_send(struct client *client, const char *data, size_t count) {
    if (send(client->fd, data, count, MSG_NOSIGNAL) == (ssize_t)count) return 1;
    shorts++;
    return 0;
}

static const char *header(const char *head, const char *name, size_t *count) {
    const char *at = strstr(head, name);
    if (at == NULL) return NULL;
    at += strlen(name);
    *count = strcspn(at, "\r");
    return at;
}

/* The head is whole and ends in a 0. */
static int upgrade(uint32_t index, const char *head) {
    char answer[256], accept[ACCEPT_BYTES + 1] = {0};
    size_t key_count, tag_count;
    struct client *client = &clients[index];
    const char *key = header(head, "\r\nSec-WebSocket-Key: ", &key_count);
    const char *tag = header(head, "\r\nX-Bench-Tag: ", &tag_count);
    if (key == NULL || tag == NULL || key_count != 24 || tag_count > 255) return 0;
    accept_key(key, accept);
    int count = snprintf(answer, sizeof(answer),
                         "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Protocol: herald.v1\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    client->tag = malloc(tag_count);
    if (client->tag == NULL) die("malloc");
    memcpy(client->tag, tag, tag_count);
    client->tag_count = (uint8_t)tag_count;
    client->hash = hash_of(tag, tag_count);
    client->open = 1;
    live++;
    connects++;
    route_add(index);
    return client_send(client, answer, (size_t)count);
}

static void keep(struct client *client, const char *data, size_t count) {
    if (count == 0 && client->kept == NULL) return;
    free(client->kept);
    client->kept = NULL;
    client->kept_count = (uint16_t)count;
    if (count) {
        client->kept = grown(NULL, count);
        memcpy(client->kept, data, count);
    }
}

/* One frame of a client; 0: it is to be dropped. */
static int on_frame(struct client *client, const struct frame *frame) {
    char answer[FRAME_HEADER_BYTES_MAX + 125];
    if (frame->opcode == OP_TEXT) {
        acked += frame->count > 11 && memcmp(frame->payload, "{\"t\":\"ack\"", 10) == 0;
    } else if (frame->opcode == OP_PONG) {
        pongs++;
    } else if (frame->count <= 125) {
        size_t head = frame_header(answer, frame->opcode == OP_PING ? OP_PONG : OP_CLOSE, frame->count);
        memcpy(answer + head, frame->payload, frame->count);
        client_send(client, answer, head + frame->count);
        return frame->opcode == OP_PING;
    }
    return 1;
}

static void client_readable(uint32_t index) {
    struct client *client = &clients[index];
    size_t count = client->kept_count, at = 0, used;
    struct frame frame;
    if (count) memcpy(read_buffer, client->kept, count);
    ssize_t got = recv(client->fd, read_buffer + count, READ_BYTES, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) client_drop(index);
        return;
    }
    count += (size_t)got;
    if (!client->open) {
        char *end = memmem(read_buffer, count, "\r\n\r\n", 4);
        if (end == NULL || (*end = 0, !upgrade(index, read_buffer))) {
            if (end == NULL && count < READ_BYTES) keep(client, read_buffer, count);
            else client_drop(index);
            return;
        }
        at = (size_t)(end + 4 - read_buffer);
    }
    while ((used = frame_read(read_buffer + at, count - at, &frame)) > 0) {
        if (!on_frame(client, &frame)) {
            client_drop(index);
            return;
        }
        at += used;
    }
    keep(client, read_buffer + at, count - at);
}

static void accept_clients(void) {
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        watch(fd, client_new(fd));
    }
}

/* A slice of the clients in each tick, so that all have theirs in 30 s. */
static void ping_slice(void) {
    static uint32_t at;
    uint32_t until = at + clients_size / PING_TICKS + 1;
    char ping[2];
    frame_header(ping, OP_PING, 0);
    for (; at < until && at < clients_size; at++)
        if (clients[at].fd >= 0 && clients[at].open) client_send(&clients[at], ping, 2);
    if (at >= clients_size) at = 0;
}

/* --- the feed ------------------------------------------------------------------ */
static int deliver(struct client *client, const char *body, size_t count) {
    size_t head = frame_header(frame_buffer, OP_TEXT, count);
    memcpy(frame_buffer + head, body, count);
    delivered++;
    return client_send(client, frame_buffer, head + count);
}

static void deliver_to_all(const char *body, size_t count) {
    size_t head = frame_header(frame_buffer, OP_TEXT, count);
    memcpy(frame_buffer + head, body, count);
    for (uint32_t i = 0; i < clients_size; i++)
        if (clients[i].fd >= 0 && clients[i].open) delivered += client_send(&clients[i], frame_buffer, head + count);
}

static void answer(const void *data, size_t count) {
    char length[4];
    put_u32(length, (uint32_t)count);
    buffer_add(&feed_out, length, 4);
    buffer_add(&feed_out, data, count);
}

static void on_batch(const char *batch, size_t size) {
    uint16_t count = get_u16(batch + 4);
    char reply[6 + UINT16_MAX] = {'H', 'R', 1, 0, batch[4], batch[5]};
    const char *at = batch + HEADER_BYTES, *end = batch + size;
    for (uint16_t i = 0; i < count; i++) {
        size_t tag_count = (uint8_t)at[3], body_count = get_u32(at + 4);
        const char *tag = at + ITEM_BYTES, *body = tag + tag_count;
        if (body + body_count > end) die("a batch was cut short");
        uint32_t index = tag_count ? find(tag, tag_count) : NONE;
        if (tag_count == 0) deliver_to_all(body, body_count);
        else if (index != NONE) deliver(&clients[index], body, body_count);
        reply[6 + i] = tag_count && index == NONE;
        at = body + body_count;
    }
    answer(reply, 6u + count);
}

static void on_stats(void) {
    char text[256];
    int count = snprintf(text, sizeof(text),
                         "{\"delivered\":%lu,\"acked\":%lu,\"pongs\":%lu,\"short\":%lu,\"connects\":%lu,\"live\":%lu}",
                         delivered, acked, pongs, shorts, connects, live);
    answer(text, (size_t)count);
}

static void feed_readable(void) {
    ssize_t got = recv(feed, buffer_room(&feed_in, 4 * READ_BYTES), 4 * READ_BYTES, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) {
            close(feed);
            feed = -1;
            feed_in.start = feed_in.end = feed_out.start = feed_out.end = 0;
        }
        return;
    }
    feed_in.end += (size_t)got;
    while (buffer_count(&feed_in) >= 4) {
        size_t size = get_u32(feed_in.data + feed_in.start);
        if (size > BATCH_BYTES_MAX) die("a batch is too large");
        if (buffer_count(&feed_in) < 4 + size) break;
        if (size) on_batch(feed_in.data + feed_in.start + 4, size);
        else on_stats();
        feed_in.start += 4 + size;
    }
    ssize_t sent = send(feed, feed_out.data + feed_out.start, buffer_count(&feed_out), MSG_NOSIGNAL);
    if (sent > 0) feed_out.start += (size_t)sent;
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 16384) != 0) die("listen");
    return fd;
}

static void turn(void) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll, events, EVENTS_MAX, live ? PING_TICK_MS : -1);
    for (int i = 0; i < count; i++) {
        int64_t who = (int64_t)events[i].data.u64;
        if (who >= 0) {
            if (clients[who].fd >= 0) client_readable((uint32_t)who);
        } else if (who == LISTENER) {
            accept_clients();
        } else if (who == FEED) {
            feed_readable();
        } else if ((feed = accept4(feed_listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
            watch(feed, FEED);
        }
    }
    if (live && now_ns() >= ping_at) {
        ping_at = now_ns() + PING_TICK_MS * 1000000u;
        ping_slice();
    }
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: floor PORT FEED_PORT [CPU]\n");
        return 2;
    }
    raise_descriptors();
    if (count > 3) pin_to(atoi(arguments[3]));
    table = calloc(table_size, sizeof(*table));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    listener = listen_on(atoi(arguments[1]));
    feed_listener = listen_on(atoi(arguments[2]));
    watch(listener, LISTENER);
    watch(feed_listener, FEED_LISTENER);
    puts("READY");
    fflush(stdout);
    for (;;) turn();
}
