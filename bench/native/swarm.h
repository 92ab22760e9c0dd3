/* The swarm: WebSocket clients of a Herald gateway, as load.c holds them. */
#ifndef BENCH_SWARM_H
#define BENCH_SWARM_H

#include "histogram.h"
#include "tls.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, READ_BYTES = 262144, TAIL_BYTES_MAX = 65536, ID_BYTES = 36, CLOSES_MAX = 5000, CLOSE_RESTART = 1012 };
enum { BUSY = 503, LATER_MS = 10, LATERS = 2048 }; /* who comes again does so after a while: a wheel of 20 s */

/* How far a client is; those below UPGRADED have no WebSocket yet. */
enum stage { FREE, CONNECTING, ASKED, UPGRADED, WELCOMED, RESUMED, CLOSING };

struct client {
    int fd;
    uint32_t kept_count;
    uint8_t stage, settled;
    tls_state tls;
    uint64_t began_ns, head; /* head: where its request head stands in the file */
    char *kept;
};

/* One entry per notification, by the number in its id; shared between processes. */
struct entry {
    uint64_t sent_ns;
    uint32_t received, reserved;
};

struct counters {
    uint64_t frames, acks, pings, others, bytes, drops, returns;
    uint64_t closes[CLOSES_MAX]; /* by close code; 0: without one */
    struct histogram latency;
};

/* A connect in progress: how many, how many at once, and what became of them. */
struct connecting {
    uint32_t asked, begun, settled, failed, in_flight_max;
    uint32_t statuses[600], errors;
    enum stage until;
    int again;       /* clients that are answered 503, sent away or lost come again, as the protocol says */
    double per_s;    /* 0: as fast as in_flight_max allows */
    uint64_t began_ns, ended_ns;
    struct histogram latency; /* to the welcome, or to `until` before it */
};

static struct {
    int epoll, acks_wanted, sources;
    uint16_t port;
    char *heads; /* what the heads file holds: u16 length (network byte order) and the head, one after the other */
    size_t heads_bytes, heads_at;
    struct client *clients;
    uint32_t clients_count, clients_size, first_free, live;
    struct buffer later[LATERS]; /* clients that come again (head * 2 + settled), by when; later_at: the wheel's hand */
    uint64_t later_at, laters; /* laters: how many wait there */
    struct buffer returning; /* heads (u64) of clients that were sent away with 1012 and come back */
    struct entry *ledger;
    uint32_t ledger_count, mask;
    struct counters counters;
    struct connecting connecting;
} swarm;

static char swarm_in[READ_BYTES + TAIL_BYTES_MAX];
static char swarm_out[READ_BYTES];

static uint64_t retry_after_ms = 1000; /* what the server said last */

/* Between one and two times Retry-After from now, at random. */
static void client_later(uint64_t head, int settled) {
    static uint64_t chance = 0x9E3779B97F4A7C15u;
    uint64_t client = head << 1 | (uint64_t)settled;
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    uint64_t due = now_ns() / 1000000 / LATER_MS + (retry_after_ms + chance % retry_after_ms) / LATER_MS;
    buffer_add(&swarm.later[due % LATERS], &client, sizeof(client));
    swarm.laters++;
}

/* `status`: of the answer to its request, or CLOSE_RESTART; 0: its socket is gone. */
static void client_end(struct client *client, int status) {
    struct connecting *connecting = &swarm.connecting;
    tls_free(client->tls);
    close(client->fd);
    free(client->kept);
    if (client->stage >= UPGRADED) swarm.live--;
    int known = status >= 100 && status < 600;
    if (known) connecting->statuses[status]++;
    if (client->settled && client->stage != CLOSING) {
        if (status == CLOSE_RESTART) {
            swarm.counters.returns++;
            buffer_add(&swarm.returning, &client->head, sizeof(client->head));
        } else {
            swarm.counters.drops++;
            if (connecting->again) client_later(client->head, 1);
        }
    } else if (!client->settled && connecting->again && (status == BUSY || status == CLOSE_RESTART)) {
        client_later(client->head, 0);
    } else if (!client->settled) {
        connecting->settled++;
        connecting->failed++;
        connecting->errors += !known;
        connecting->ended_ns = now_ns();
    }
    *client = (struct client){.fd = -1};
    uint32_t index = (uint32_t)(client - swarm.clients);
    if (index < swarm.first_free) swarm.first_free = index;
}

static void client_reached(struct client *client, enum stage stage) {
    struct connecting *connecting = &swarm.connecting;
    client->stage = (uint8_t)stage;
    enum stage timed = connecting->until < WELCOMED ? connecting->until : WELCOMED;
    if (stage == timed && !client->settled)
        histogram_add(&connecting->latency, (now_ns() - client->began_ns) / 1000);
    if (stage >= connecting->until && !client->settled) {
        client->settled = 1;
        connecting->settled++;
        connecting->ended_ns = now_ns();
    }
}

/* Begin a connect with a head; `settled`: it is no part of the connect command. */
static void client_begin(uint64_t head, int settled) {
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(swarm.port),
                                                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    static uint32_t turn;
    if (fd < 0) {
        swarm.counters.drops += (uint64_t)settled;
        swarm.connecting.settled += !settled;
        swarm.connecting.failed += !settled;
        swarm.connecting.errors += !settled;
        return;
    }
    while (swarm.first_free < swarm.clients_size && swarm.clients[swarm.first_free].stage != FREE) swarm.first_free++;
    if (swarm.first_free == swarm.clients_size) {
        uint32_t size = swarm.clients_size ? swarm.clients_size * 2 : 1024;
        swarm.clients = grown(swarm.clients, size * sizeof(struct client));
        memset(swarm.clients + swarm.clients_size, 0, (size - swarm.clients_size) * sizeof(struct client));
        swarm.clients_size = size;
    }
    uint32_t index = swarm.first_free;
    struct client *client = &swarm.clients[index];
    /* 127.0.0.2 and on, 250 to a block of 256. */
    uint32_t source = turn++ % (uint32_t)swarm.sources;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + source / 250 * 256 + source % 250);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    *client = (struct client){.fd = fd, .stage = CONNECTING, .settled = (uint8_t)settled,
                              .began_ns = now_ns(), .head = head};
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = index};
    if (bind(fd, (struct sockaddr *)&from, sizeof(from)) != 0 ||
        (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS) ||
        epoll_ctl(swarm.epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        client_end(client, 0);
}

/* The socket is connected: send the request head, after the handshake where there is one. */
static void client_ask(struct client *client, uint32_t index) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = index};
    uint16_t count = get_u16(swarm.heads + client->head);
    const char *head = swarm.heads + client->head + 2;
    int shaken = tls_handshake(&client->tls, client->fd);
    if (shaken > 0) client->stage = ASKED;
    if (shaken < 0 || (shaken > 0 && tls_send(client->tls, client->fd, head, count) != count) ||
        epoll_ctl(swarm.epoll, EPOLL_CTL_MOD, client->fd, &event) != 0)
        client_end(client, 0);
}

/* The number that the last eight hex digits of an id are, or -1. */
static int64_t number_of(const char *id) {
    uint32_t number = 0;
    for (int i = ID_BYTES - 8; i < ID_BYTES; i++) {
        int digit = id[i] >= 'a' ? id[i] - 'a' + 10 : id[i] - '0';
        if (digit < 0 || digit > 15) return -1;
        number = number << 4 | (uint32_t)digit;
    }
    return number;
}

/* A notification came: count it, write its ack to `to`; the ack's size. */
static size_t on_notification(const struct frame *frame, char *to) {
    static const char field[] = "\"id\":\"";
    static char text[] = "{\"t\":\"ack\",\"ids\":[\"000000000000000000000000000000000000\"]}";
    const char *id = memmem(frame->payload, frame->count, field, sizeof(field) - 1);
    swarm.counters.frames++;
    if (id == NULL || id + sizeof(field) - 1 + ID_BYTES > frame->payload + frame->count) {
        swarm.counters.others++;
        return 0;
    }
    id += sizeof(field) - 1;
    int64_t number = number_of(id);
    if (swarm.ledger != NULL && number >= 0 && number < swarm.ledger_count) {
        struct entry *entry = &swarm.ledger[number];
        entry->received++;
        histogram_add(&swarm.counters.latency, (now_ns() - entry->sent_ns) / 1000);
    }
    if (!swarm.acks_wanted) return 0;
    memcpy(text + sizeof("{\"t\":\"ack\",\"ids\":[\"") - 1, id, ID_BYTES);
    swarm.counters.acks++;
    return frame_masked(to, OP_TEXT, text, sizeof(text) - 1, swarm.mask += 0x9E3779B9u);
}

static int begins(const struct frame *frame, const char *text) {
    size_t count = strlen(text);
    return frame->count >= count && memcmp(frame->payload, text, count) == 0;
}

/* One frame of the server: what is to be answered is written to `to`; its size, or -1: the client ended. */
static long on_frame(struct client *client, const struct frame *frame, char *to) {
    if (frame->opcode == OP_TEXT) {
        if (begins(frame, "{\"t\":\"n\"")) return (long)on_notification(frame, to);
        if (begins(frame, "{\"t\":\"welcome\"")) client_reached(client, WELCOMED);
        else if (begins(frame, "{\"t\":\"resumed\"")) client_reached(client, RESUMED);
        else swarm.counters.others++;
        return 0;
    }
    if (frame->opcode == OP_PING && frame->count < 126) {
        swarm.counters.pings++;
        return (long)frame_masked(to, OP_PONG, frame->payload, frame->count, swarm.mask += 0x9E3779B9u);
    }
    if (frame->opcode == OP_CLOSE) {
        uint16_t code = frame->count >= 2 ? get_u16(frame->payload) : 0;
        swarm.counters.closes[code < CLOSES_MAX ? code : 0]++;
        client_end(client, code == CLOSE_RESTART ? CLOSE_RESTART : 0);
        return -1;
    }
    swarm.counters.others++;
    return 0;
}

/* The answer to the upgrade lies in data: where it ends; 0: not yet; -1: the client ended. */
static long on_answer(struct client *client, char *data, size_t count) {
    char *end = memmem(data, count, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    int status = count > 12 ? atoi(data + 9) : 0;
    if (status != 101) {
        char *after = memmem(data, (size_t)(end - data), "Retry-After: ", 13);
        if (after != NULL && after[13] >= '1' && after[13] <= '9') retry_after_ms = 1000u * (uint64_t)(after[13] - '0');
        client_end(client, status);
        return -1;
    }
    swarm.live++;
    client_reached(client, UPGRADED);
    return end + 4 - data;
}

static void client_keep(struct client *client, const char *data, size_t count) {
    if (count > TAIL_BYTES_MAX) {
        client_end(client, 0);
        return;
    }
    if (count == 0 && client->kept == NULL) return;
    free(client->kept);
    client->kept = NULL;
    client->kept_count = (uint32_t)count;
    if (count) {
        client->kept = grown(NULL, count);
        memcpy(client->kept, data, count);
    }
}

static void client_read(struct client *client) {
    size_t count = client->kept_count, at = 0, out = 0, used;
    struct frame frame;
    if (count) memcpy(swarm_in, client->kept, count);
    ssize_t got = tls_recv(client->tls, client->fd, swarm_in + count, READ_BYTES);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) client_end(client, 0);
        return;
    }
    count += (size_t)got;
    swarm.counters.bytes += (size_t)got;
    if (client->stage == ASKED) {
        long end = on_answer(client, swarm_in, count);
        if (end < 0) return;
        at = (size_t)end;
    }
    while (client->stage >= UPGRADED && (used = frame_read(swarm_in + at, count - at, &frame)) > 0) {
        long answered = on_frame(client, &frame, swarm_out + out);
        if (answered < 0) return;
        at += used;
        out += (size_t)answered;
        if (out > sizeof(swarm_out) - 256 || (out > 0 && at == count)) {
            if (tls_send(client->tls, client->fd, swarm_out, out) != (ssize_t)out) {
                client_end(client, 0);
                return;
            }
            out = 0;
        }
    }
    if (out > 0 && tls_send(client->tls, client->fd, swarm_out, out) != (ssize_t)out) {
        client_end(client, 0);
        return;
    }
    client_keep(client, swarm_in + at, count - at);
}

/* TLS may hold what the socket does not tell of again; a client that ended holds nothing. */
static void client_readable(struct client *client) {
    do client_read(client);
    while (tls_holds(client->tls));
}

static void client_event(uint32_t index, uint32_t events) {
    struct client *client = &swarm.clients[index];
    if (client->stage == FREE) return;
    if (client->stage == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP)) client_end(client, 0);
        else client_ask(client, index);
    } else {
        client_readable(client);
    }
}

/* Who was sent away comes back at once. */
static void swarm_return(void) {
    while (buffer_count(&swarm.returning) > 0) {
        uint64_t head;
        memcpy(&head, swarm.returning.data + swarm.returning.start, sizeof(head));
        swarm.returning.start += sizeof(head);
        client_begin(head, 1);
    }
}

/* Whose time has come comes again. */
static void swarm_again(void) {
    uint64_t now = now_ns() / 1000000 / LATER_MS;
    if (swarm.later_at == 0 || now - swarm.later_at >= LATERS) swarm.later_at = now - LATERS + 1;
    for (; swarm.later_at <= now; swarm.later_at++) {
        struct buffer *due = &swarm.later[swarm.later_at % LATERS];
        while (buffer_count(due) > 0) {
            uint64_t client;
            memcpy(&client, due->data + due->start, sizeof(client));
            due->start += sizeof(client);
            swarm.laters--;
            client_begin(client >> 1, client & 1);
        }
    }
}

/* When the next one comes again (now_ns). */
static uint64_t swarm_again_due(void) {
    for (uint64_t at = swarm.later_at; swarm.laters > 0; at++)
        if (buffer_count(&swarm.later[at % LATERS]) > 0) return at * LATER_MS * 1000000;
    return UINT64_MAX;
}

/* When the next connect may begin, but for those that end before (now_ns). */
static uint64_t swarm_connect_due(void) {
    struct connecting *connecting = &swarm.connecting;
    if (connecting->begun == connecting->asked || connecting->begun - connecting->settled >= connecting->in_flight_max)
        return UINT64_MAX;
    return connecting->per_s > 0 ? connecting->began_ns + (uint64_t)(connecting->begun / connecting->per_s * 1e9) : 0;
}

/* Begin as many connects as pace and bound allow. */
static void swarm_connect_more(void) {
    struct connecting *connecting = &swarm.connecting;
    for (int i = 0; i < 64 && connecting->begun < connecting->asked; i++) {
        if (connecting->begun - connecting->settled >= connecting->in_flight_max) return;
        double due = connecting->per_s * (double)(now_ns() - connecting->began_ns) / 1e9;
        if (connecting->per_s > 0 && connecting->begun >= due) return;
        connecting->begun++;
        if (swarm.heads_at >= swarm.heads_bytes) swarm.heads_at = 0;
        uint64_t head = swarm.heads_at;
        swarm.heads_at += 2u + get_u16(swarm.heads + head);
        client_begin(head, 0);
    }
}

#endif
