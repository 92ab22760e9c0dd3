/* Where load.c's batches go: a NATS server (its text protocol, enough of it), or the floor's feed over plain TCP. */
#ifndef BENCH_UPSTREAM_H
#define BENCH_UPSTREAM_H

#include "swarm.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { ANSWERS_MAX = 8, CODES = 8, RECORD_BYTES = 12, OUT_BYTES_MAX = 1 << 20, ANSWER_SID = 10, STALL_S = 30 };

/* What a subject of the bus is answered with; its last eight bytes are set to the Unix time in ms. Questions that came
 * together ("fills", notification/messages.py) get it once each, behind the head of their request. */
struct answer {
    char data[65536];
    size_t count;
    uint64_t times;
};

/* A file of batches being sent. Record: u16 subject length | u16 items | u32 number of the first | u32 batch length |
 * subject | batch; network byte order. */
struct feeding {
    int active, stalled;
    char *data;
    size_t count, at;
    uint64_t items, replied, no_responders, in_flight_max, expected, fan, began_ns, ended_ns, progress_ns;
    uint64_t acks_before, frames_before, codes[CODES];
    double per_s;
};

static struct {
    int fd, nats, watching_out;
    struct buffer in, out;
    struct answer *answers[ANSWERS_MAX];
    int answers_count;
} upstream = {.fd = -1};

static struct feeding feeding;

static char *file_map(const char *path, size_t *count, int writable) {
    struct stat status;
    int fd = open(path, writable ? O_RDWR : O_RDONLY);
    if (fd < 0 || fstat(fd, &status) != 0) die(path);
    *count = (size_t)status.st_size;
    char *data = mmap(NULL, *count, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) die(path);
    close(fd);
    return data;
}

static void upstream_flush(void) {
    size_t count = buffer_count(&upstream.out);
    if (count > 0) {
        ssize_t sent = send(upstream.fd, upstream.out.data + upstream.out.start, count, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) die("the server of the batches went away");
        if (sent > 0) upstream.out.start += (size_t)sent;
    }
}

static void upstream_text(const char *text) { buffer_add(&upstream.out, text, strlen(text)); }

static void upstream_connect(int port, int nats) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    if (upstream.fd >= 0) close(upstream.fd);
    upstream.in.start = upstream.in.end = upstream.out.start = upstream.out.end = 0;
    upstream.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    upstream.nats = nats;
    if (connect(upstream.fd, (struct sockaddr *)&to, sizeof(to)) != 0) die("connect");
    setsockopt(upstream.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    fcntl(upstream.fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX - 1};
    if (epoll_ctl(swarm.epoll, EPOLL_CTL_ADD, upstream.fd, &event) != 0) die("epoll_ctl");
    if (nats) {
        char text[256];
        snprintf(text, sizeof(text),
                 "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
                 "\"name\":\"bench\",\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\nSUB _BENCH.%d 1\r\n", getpid());
        upstream_text(text);
    }
    upstream_flush();
}

static void answer_with(const char *subject, const char *queue, const char *path) {
    char text[512];
    if (upstream.answers_count == ANSWERS_MAX) die("too many answers");
    struct answer *answer = upstream.answers[upstream.answers_count] = grown(NULL, sizeof(struct answer));
    FILE *file = fopen(path, "rb");
    if (file == NULL) die(path);
    answer->count = fread(answer->data, 1, sizeof(answer->data), file);
    answer->times = 0;
    fclose(file);
    snprintf(text, sizeof(text), "SUB %s %s %d\r\n", subject, queue, ANSWER_SID + upstream.answers_count++);
    upstream_text(text);
    upstream_flush();
}

/* Bytes of the head of questions that came together, their number in *questions; 0: it is one question alone. */
static size_t fills_head(const unsigned char *payload, size_t count, size_t *questions) {
    if (count < 10 || memcmp(payload, "\x92\xa5" "fills", 7) != 0) return 0;
    if ((payload[7] & 0xf0) == 0x90) return *questions = payload[7] & 0x0f, 8;
    if (payload[7] != 0xdc) die("questions");
    return *questions = (size_t)payload[8] << 8 | payload[9], 10;
}

static void on_request(struct answer *answer, const char *reply, const char *payload, size_t count) {
    char text[256];
    size_t questions = 1, head = fills_head((const unsigned char *)payload, count, &questions);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    put_u32(answer->data + answer->count - 8, (uint32_t)(ms >> 32));
    put_u32(answer->data + answer->count - 4, (uint32_t)ms);
    answer->times++;
    snprintf(text, sizeof(text), "PUB %s %zu\r\n", reply, head + questions * answer->count);
    upstream_text(text);
    buffer_add(&upstream.out, payload, head);
    for (size_t i = 0; i < questions; i++) buffer_add(&upstream.out, answer->data, answer->count);
    upstream_text("\r\n");
}

/* The reply to a batch (notification/batch.py): a code per item. */
static void on_reply(const char *reply, size_t count) {
    if (count < 6 || reply[0] != 'H' || reply[1] != 'R') die("not a reply to a batch");
    for (size_t i = 6; i < count; i++) feeding.codes[(uint8_t)reply[i] < CODES ? (uint8_t)reply[i] : CODES - 1]++;
    feeding.replied += count - 6;
}

/* MSG and HMSG: their line ends in a 0. */
static void on_message(char *line, const char *payload, size_t headers, size_t count) {
    char *words[6] = {0}, *rest;
    int found = 0;
    for (char *word = strtok_r(line, " ", &rest); word != NULL && found < 6; word = strtok_r(NULL, " ", &rest))
        words[found++] = word;
    int sid = atoi(words[2]), with_reply = found == (headers ? 6 : 5);
    if (sid >= ANSWER_SID && with_reply)
        on_request(upstream.answers[sid - ANSWER_SID], words[3], payload + headers, count - headers);
    else if (headers && count == headers) feeding.no_responders++;
    else on_reply(payload + headers, count - headers);
}

/* What NATS says next, from data: its size; 0: not all there yet. */
static size_t nats_next(char *data, size_t count) {
    char *end = memmem(data, count, "\r\n", 2);
    if (end == NULL) return 0;
    size_t line = (size_t)(end + 2 - data), total, headers = 0;
    if (memcmp(data, "MSG ", 4) != 0 && memcmp(data, "HMSG ", 5) != 0) {
        if (memcmp(data, "PING", 4) == 0) upstream_text("PONG\r\n");
        if (memcmp(data, "-ERR", 4) == 0) {
            errno = 0;
            *end = 0;
            die(data);
        }
        return line;
    }
    *end = 0;
    char *last = strrchr(data, ' ');
    total = (size_t)atol(last + 1);
    *end = '\r';
    if (count < line + total + 2) return 0;
    *end = 0;
    if (data[0] == 'H') {
        char *before = last - 1;
        while (*before != ' ') before--;
        headers = (size_t)atol(before + 1);
    }
    on_message(data, data + line, headers, total);
    return line + total + 2;
}

static void upstream_readable(void) {
    ssize_t got = recv(upstream.fd, buffer_room(&upstream.in, 1 << 18), 1 << 18, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) die("the server of the batches went away");
    if (got < 0) return;
    upstream.in.end += (size_t)got;
    feeding.progress_ns = now_ns();
    for (size_t used = 1; used > 0 && buffer_count(&upstream.in) > 0; upstream.in.start += used) {
        char *data = upstream.in.data + upstream.in.start;
        size_t count = buffer_count(&upstream.in);
        if (upstream.nats) {
            used = nats_next(data, count);
        } else {
            used = count >= 4 && count >= 4u + get_u32(data) ? 4u + get_u32(data) : 0;
            if (used) on_reply(data + 4, used - 4);
        }
    }
    upstream_flush();
}

/* --- feeding ------------------------------------------------------------------ */
static void feed_begin(const char *path, uint64_t in_flight_max, double per_s, uint64_t expected, uint64_t fan) {
    if (feeding.data != NULL) munmap(feeding.data, feeding.count);
    uint64_t now = now_ns();
    feeding = (struct feeding){.active = 1, .in_flight_max = in_flight_max, .per_s = per_s, .expected = expected,
                               .fan = fan ? fan : 1,
                               .began_ns = now, .progress_ns = now, .acks_before = swarm.counters.acks,
                               .frames_before = swarm.counters.frames};
    feeding.data = file_map(path, &feeding.count, 0);
}

static void feed_one(void) {
    const char *record = feeding.data + feeding.at;
    size_t subject_count = get_u16(record), items = get_u16(record + 2), size = get_u32(record + 8);
    uint32_t first = get_u32(record + 4);
    const char *subject = record + RECORD_BYTES, *batch = subject + subject_count;
    char head[512];
    uint64_t now = now_ns();
    for (size_t i = 0; i < items && swarm.ledger != NULL && first + i < swarm.ledger_count; i++)
        swarm.ledger[first + i].sent_ns = now;
    if (upstream.nats) {
        snprintf(head, sizeof(head), "PUB %.*s _BENCH.%d %zu\r\n", (int)subject_count, subject, getpid(), size);
        upstream_text(head);
    } else {
        put_u32(head, (uint32_t)size);
        buffer_add(&upstream.out, head, 4);
    }
    buffer_add(&upstream.out, batch, size);
    if (upstream.nats) upstream_text("\r\n");
    feeding.items += items;
    feeding.at += RECORD_BYTES + subject_count + size;
}

/* Is less on its way than may be? */
static int feed_room(void) {
    uint64_t frames = swarm.counters.frames - feeding.frames_before, acks = swarm.counters.acks - feeding.acks_before;
    uint64_t back = !feeding.expected ? feeding.replied : swarm.acks_wanted ? acks : frames;
    return feeding.items * feeding.fan < back + feeding.in_flight_max;
}

/* When there is something to do of itself (now_ns): the next batch, or to give up. */
static uint64_t feed_due(void) {
    uint64_t stalled = feeding.progress_ns + STALL_S * 1000000000ull;
    uint64_t next = feeding.began_ns + (uint64_t)((double)feeding.items / feeding.per_s * 1e9) + 1;
    return feeding.per_s > 0 && feeding.at < feeding.count && next < stalled && feed_room() ? next : stalled;
}

/* Send what pace and bound allow; not active any more when all came back, or nothing came for STALL_S. */
static void feed_more(void) {
    uint64_t frames = swarm.counters.frames - feeding.frames_before;
    static uint64_t frames_seen;
    if (frames != frames_seen) {
        frames_seen = frames;
        feeding.progress_ns = now_ns();
    }
    while (feeding.at < feeding.count && feed_room() && buffer_count(&upstream.out) < OUT_BYTES_MAX) {
        if (feeding.per_s > 0 && (double)feeding.items > feeding.per_s * (double)(now_ns() - feeding.began_ns) / 1e9)
            break;
        feed_one();
    }
    upstream_flush();
    int all = feeding.at == feeding.count && feeding.replied >= feeding.items && frames >= feeding.expected;
    feeding.stalled = now_ns() - feeding.progress_ns > STALL_S * 1000000000ull;
    if (all || feeding.stalled) {
        feeding.active = 0;
        feeding.ended_ns = now_ns();
    }
}

#endif
