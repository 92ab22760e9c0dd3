/* The load generator: a swarm of WebSocket clients that spins on its own core, and the sender of their batches.
 *
 *     load PORT HEADS SOURCES SPIN [CPU]
 *
 * PORT: where the clients connect, on 127.0.0.1; HEADS: a file of request heads (u16 length, head), used in turn;
 * SOURCES: how many source addresses, from 127.0.0.2 on; SPIN 1: never sleep, 0: sleep until
 * something comes or is due.
 * Commands come as lines on stdin, each is answered by one line of JSON on stdout, in order:
 *
 *     connect COUNT IN_FLIGHT PER_S STAGE AGAIN   open clients; STAGE upgraded, welcomed or resumed; PER_S 0 = no
 *                                           pace; AGAIN 1: who is answered 503, is closed with
 *                                           1012 before that stage, or loses its socket behind it
 *                                           comes again after 1 to 2 s
 *     close IN_FLIGHT                       the close handshake with every client
 *     drop                                  close every socket at once
 *     nats PORT | tcp PORT                  where batches go
 *     answer SUBJECT QUEUE FILE             answer requests on the bus with the bytes of a file
 *     ledger FILE                           note per notification when it was sent and how often it came
 *     acks 0|1                              acknowledge notifications?
 *     feed FILE IN_FLIGHT PER_S EXPECTED FAN   send batches, until EXPECTED notifications came (0: until all are
 *                                           answered); an item makes FAN of them
 *     stats | reset                         the counters since the last reset
 *
 * Pings are answered at any time, and a client that is closed with 1012 behind its stage comes back at once. The end of stdin ends it.
 */
#include "upstream.h"

#include <signal.h>

enum { COMMAND_BYTES_MAX = 4096, SLEEP_MS_MAX = LATER_MS * LATERS / 2 }; /* the wheel turns on */

static const uint64_t STDIN = UINT64_MAX, UPSTREAM = UINT64_MAX - 1;
static enum { IDLE, CONNECT, CLOSE, FEED } doing;
static uint32_t close_at, close_in_flight, close_live;
static uint64_t close_began_ns;

static double seconds(uint64_t from_ns, uint64_t to_ns) { return (double)(to_ns - from_ns) / 1e9; }

static void done(void) {
    putchar('\n');
    fflush(stdout);
    doing = IDLE;
}

static void fine(void) {
    fputs("{}", stdout);
    done();
}

/* {"key":count,...} of what is not zero. */
static void print_counts_u32(const uint32_t *counts, int size) {
    const char *comma = "";
    putchar('{');
    for (int i = 0; i < size; i++)
        if (counts[i]) {
            printf("%s\"%d\":%u", comma, i, counts[i]);
            comma = ",";
        }
    putchar('}');
}

static void print_counts(const uint64_t *counts, int size) {
    const char *comma = "";
    putchar('{');
    for (int i = 0; i < size; i++)
        if (counts[i]) {
            printf("%s\"%d\":%lu", comma, i, counts[i]);
            comma = ",";
        }
    putchar('}');
}

static void connect_done(void) {
    struct connecting *connecting = &swarm.connecting;
    printf("{\"asked\":%u,\"failed\":%u,\"errors\":%u,\"live\":%u,\"seconds\":%.6f,\"statuses\":", connecting->asked,
           connecting->failed, connecting->errors, swarm.live, seconds(connecting->began_ns, connecting->ended_ns));
    print_counts_u32(connecting->statuses, 600);
    fputs(",\"latency\":", stdout);
    histogram_print(stdout, &connecting->latency);
    putchar('}');
    done();
}

static void feed_done(void) {
    printf("{\"items\":%lu,\"replied\":%lu,\"frames\":%lu,\"acks\":%lu,\"no_responders\":%lu,\"stalled\":%d,"
           "\"seconds\":%.6f,\"codes\":",
           feeding.items, feeding.replied, swarm.counters.frames - feeding.frames_before,
           swarm.counters.acks - feeding.acks_before, feeding.no_responders, feeding.stalled,
           seconds(feeding.began_ns, feeding.ended_ns));
    print_counts(feeding.codes, CODES);
    putchar('}');
    done();
}

static void stats(void) {
    struct counters *counters = &swarm.counters;
    uint64_t answered = 0;
    for (int i = 0; i < upstream.answers_count; i++) answered += upstream.answers[i]->times;
    printf("{\"live\":%u,\"frames\":%lu,\"acks\":%lu,\"pings\":%lu,\"others\":%lu,\"bytes\":%lu,\"drops\":%lu,"
           "\"returns\":%lu,\"answered\":%lu,\"closes\":",
           swarm.live, counters->frames, counters->acks, counters->pings, counters->others, counters->bytes,
           counters->drops, counters->returns, answered);
    print_counts(counters->closes, CLOSES_MAX);
    fputs(",\"latency\":", stdout);
    histogram_print(stdout, &counters->latency);
    putchar('}');
    done();
}

/* Send close frames, so that at most close_in_flight clients wait for their end. */
static void close_more(void) {
    static uint32_t closing;
    char frame[16];
    if (close_at == 0) closing = 0;
    uint32_t gone = close_live - swarm.live;
    for (; close_at < swarm.clients_size && closing - gone < close_in_flight; close_at++) {
        struct client *client = &swarm.clients[close_at];
        if (client->stage < UPGRADED || client->stage == CLOSING) continue;
        size_t count = frame_masked(frame, OP_CLOSE, "\x03\xe8", 2, swarm.mask += 0x9E3779B9u);
        client->stage = CLOSING;
        closing++;
        if (tls_send(client->tls, client->fd, frame, count) != (ssize_t)count) client_end(client, 0);
        gone = close_live - swarm.live;
    }
    if (swarm.live == 0) {
        printf("{\"closed\":%u,\"seconds\":%.6f}", close_live, seconds(close_began_ns, now_ns()));
        done();
    }
}

static void drop_all(void) {
    for (uint32_t i = 0; i < swarm.clients_size; i++)
        if (swarm.clients[i].stage != FREE) {
            swarm.clients[i].stage = CLOSING;
            swarm.live++; /* whatever its stage was, client_end takes one off */
            client_end(&swarm.clients[i], 0);
        }
    swarm.live = 0;
    fine();
}

static void command(char *line) {
    char word[32] = "", first[1024] = "", second[1024] = "", third[1024] = "", fourth[64] = "";
    char fifth[64] = "";
    sscanf(line, "%31s %1023s %1023s %1023s %63s %63s", word, first, second, third, fourth, fifth);
    if (strcmp(word, "connect") == 0) {
        enum stage until = fourth[0] == 'u' ? UPGRADED : fourth[0] == 'w' ? WELCOMED : RESUMED;
        uint64_t now = now_ns();
        swarm.connecting = (struct connecting){.asked = (uint32_t)atol(first), .in_flight_max = (uint32_t)atol(second),
                                               .per_s = atof(third), .until = until, .again = fifth[0] == '1',
                                               .began_ns = now, .ended_ns = now};
        doing = CONNECT;
    } else if (strcmp(word, "close") == 0) {
        close_at = 0;
        close_in_flight = (uint32_t)atol(first);
        close_live = swarm.live;
        close_began_ns = now_ns();
        doing = CLOSE;
    } else if (strcmp(word, "feed") == 0) {
        feed_begin(first, (uint64_t)atoll(second), atof(third), (uint64_t)atoll(fourth),
                   (uint64_t)atoll(fifth));
        doing = FEED;
    } else if (strcmp(word, "drop") == 0) {
        drop_all();
    } else if (strcmp(word, "nats") == 0 || strcmp(word, "tcp") == 0) {
        upstream_connect(atoi(first), word[0] == 'n');
        fine();
    } else if (strcmp(word, "answer") == 0) {
        answer_with(first, second, third);
        fine();
    } else if (strcmp(word, "ledger") == 0) {
        size_t bytes;
        swarm.ledger = (struct entry *)file_map(first, &bytes, 1);
        swarm.ledger_count = (uint32_t)(bytes / sizeof(struct entry));
        fine();
    } else if (strcmp(word, "acks") == 0) {
        swarm.acks_wanted = atoi(first);
        fine();
    } else if (strcmp(word, "stats") == 0) {
        stats();
    } else if (strcmp(word, "reset") == 0) {
        memset(&swarm.counters, 0, sizeof(swarm.counters));
        fine();
    } else {
        errno = EINVAL;
        die(word);
    }
}

static void stdin_readable(void) {
    static char text[COMMAND_BYTES_MAX];
    static size_t count;
    ssize_t got = read(0, text + count, sizeof(text) - 1 - count);
    if (got == 0) exit(0);
    if (got < 0) return;
    count += (size_t)got;
    text[count] = 0;
    char *end = strchr(text, '\n');
    if (end == NULL) return;
    *end = 0;
    command(text); /* one at a time: the next comes after the answer */
    count = 0;
}

/* How long there is nothing to do of itself, in ms. */
static int idle_ms(void) {
    uint64_t now = now_ns(), due = swarm_again_due(), at = UINT64_MAX;
    if (buffer_count(&upstream.out) > 0) return 1; /* its socket is full */
    if (doing == CONNECT) at = swarm_connect_due();
    if (doing == FEED) at = feed_due();
    if (at < due) due = at;
    return due <= now ? 0 : due - now < SLEEP_MS_MAX * 1000000ull ? (int)((due - now + 999999) / 1000000) : SLEEP_MS_MAX;
}

static void turn(int spin) {
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(swarm.epoll, events, EVENTS_MAX, spin ? 0 : idle_ms());
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == STDIN) stdin_readable();
        else if (events[i].data.u64 == UPSTREAM) upstream_readable();
        else client_event((uint32_t)events[i].data.u64, events[i].events);
    }
    swarm_return();
    swarm_again();
    if (doing == CONNECT) {
        swarm_connect_more();
        if (swarm.connecting.settled == swarm.connecting.asked) connect_done();
    } else if (doing == CLOSE) {
        close_more();
    } else if (doing == FEED) {
        feed_more();
        if (!feeding.active) feed_done();
    }
    if (buffer_count(&upstream.out) > 0) upstream_flush();
    if (count == 0 && spin) sched_yield(); /* the core is ours, but for the servers beside the one that is measured */
}

int main(int count, char **arguments) {
    if (count < 5) {
        fprintf(stderr, "usage: load PORT HEADS SOURCES SPIN [CPU]\n");
        return 2;
    }
    raise_descriptors();
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    tls_open();
    swarm.port = (uint16_t)atoi(arguments[1]);
    swarm.heads = file_map(arguments[2], &swarm.heads_bytes, 0);
    swarm.sources = atoi(arguments[3]);
    swarm.acks_wanted = 1;
    swarm.mask = 0x12345678u;
    int spin = atoi(arguments[4]);
    if (count > 5) pin_to(atoi(arguments[5]));
    swarm.epoll = epoll_create1(EPOLL_CLOEXEC);
    fcntl(0, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = STDIN};
    if (epoll_ctl(swarm.epoll, EPOLL_CTL_ADD, 0, &event) != 0) die("stdin");
    fine();
    for (;;) turn(spin);
}
