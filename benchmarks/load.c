/* A load client for one HTTP/1.1 server on this machine: POSTs distinct bodies, and says what came of each.
 *
 *     load --port N --bodies FILE --connections N --seconds S [--rate R] [--first I] [--last I] [--wrap]
 *          [--path P] [--timeout-ms MS] [--late-ms MS] [--ledger FILE]
 *
 * bodies: each a length (4 bytes, little endian) and as many bytes. Without a rate the loop is closed: every connection
 * sends its next body once the last was answered. With one it is open: bodies are due at fixed times whether or
 * not the server keeps up, and latency counts from when a body was DUE, so that waiting for the server is part
 * of it. In both, latency includes opening a connection where the server keeps none alive.
 *
 * After S seconds nothing new is sent (an open loop still sends what was due by then), and what is under way is
 * awaited, at most the timeout. Prints one JSON object. ledger: for each body sent its index and status, two
 * unsigned 32 bit integers; status 0: never answered.
 *
 * A connection that the server closes before the first byte of an answer, having answered on it before, was
 * closed while idle: the body is sent once more on a new one (RFC 9112, 9.3.1), which `resent` counts. One thread;
 * epoll on Linux, poll elsewhere or with -DUSE_POLL (where what is due may be sent up to 1 ms late).
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(USE_POLL)
#define USE_EPOLL 1
#include <sys/epoll.h>
#include <sys/timerfd.h>
#endif

#define HEAD_MAX 65536       /* bytes of an answer's header; more is a broken server */
#define BACK_OFF_NS 20000000 /* after a failed connection, so that a dead server is not dialled in a hot loop */
#define SWEEP_NS 20000000    /* between looks for requests that are out of time */

enum state { IDLE, FREE, CONNECTING, SENDING, READING, RESTING };

struct connection {
    int fd; /* -1: none */
    enum state state;
    int answered;    /* answers on this socket so far */
    int tries;       /* of the request under way */
    int wants_write; /* what is being watched for */
    uint32_t body;
    int64_t since;    /* when the request was due, or begun; counted from */
    int64_t deadline; /* of the request, or of the rest */
    char head[512];
    size_t head_size, sent;
    char *buffer;
    size_t filled, capacity;
    int has_head, status, closes, until_end, is_chunked;
    int64_t left;     /* bytes of the body still to come */
    int chunk_state;  /* 0 size, 1 data, 2 end of data, 3 trailer */
    size_t line_size; /* of the chunk's or trailer's line so far */
    int64_t chunk;
};

static struct sockaddr_in address;
static const char *path = "/webhooks/wix";
static int port;
static const unsigned char *map;
static size_t map_size;
static size_t *offsets; /* of each body's length */
static uint32_t bodies, first, last, next_body;
static int wraps, is_exhausted, is_open_loop, is_over;
static double rate;
static int64_t timeout_ns = 10000000000LL, late_ns = 1250000000LL, began, ends;

static struct connection *all;
static int connections;
/* Open ones are a ring, so that work goes round and reaches every worker of the server. Another is opened only when
 * none of them is idle: a server may bound its connections, and those held for nothing would keep others out. */
static int *idle, *closed;
static int idle_first, idle_count, closed_count;

static uint32_t *latencies; /* us */
static size_t answers, latencies_capacity;
static uint64_t by_status[1000];
static uint64_t sent_count, under_way, no_answer, timeouts, connect_errors, broken, resent, late, ok_in_time, due_count;
static int64_t last_answer;
static FILE *ledger;

static void die(const char *what)
{
    fprintf(stderr, "load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(2);
}

static void *need(void *memory)
{
    if (!memory)
        die("out of memory");
    return memory;
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* -- Watching sockets ------------------------------------------------------------------------------- */

#ifdef USE_EPOLL
static int poller, timer;

static void watch_begin(void)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0 || (timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) < 0)
        die("epoll");
    if (epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e) < 0)
        die("epoll");
}

static void watch(struct connection *c, int wants_write, int is_new)
{
    struct epoll_event e = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.u32 = (uint32_t)(c - all)};
    if (!is_new && wants_write == c->wants_write)
        return;
    c->wants_write = wants_write;
    if (epoll_ctl(poller, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &e) < 0)
        die("epoll_ctl");
}
#else
static struct pollfd *polled;

static void watch_begin(void)
{
    polled = need(calloc((size_t)connections, sizeof *polled));
    for (int i = 0; i < connections; i++)
        polled[i].fd = -1;
}

static void watch(struct connection *c, int wants_write, int is_new)
{
    (void)is_new;
    c->wants_write = wants_write;
    polled[c - all].fd = c->fd;
    polled[c - all].events = (short)(POLLIN | (wants_write ? POLLOUT : 0));
}
#endif

static void drop(struct connection *c)
{
    if (c->fd >= 0) {
#ifndef USE_EPOLL
        polled[c - all].fd = -1;
#endif
        close(c->fd); /* which also ends its being watched by epoll */
    }
    c->fd = -1;
    c->answered = 0;
    c->filled = 0;
}

/* -- What came of a request ------------------------------------------------------------------------- */

static void send_next(struct connection *c, int64_t now);

static void note(uint32_t body, uint32_t status)
{
    uint32_t record[2] = {body, status};
    if (ledger && fwrite(record, sizeof record, 1, ledger) != 1)
        die("cannot write the ledger");
}

static void become_idle(struct connection *c)
{
    c->state = IDLE;
    if (c->fd >= 0)
        idle[(idle_first + idle_count++) % connections] = (int)(c - all);
    else
        closed[closed_count++] = (int)(c - all);
}

static struct connection *take_idle(void)
{
    int taken = idle_count ? idle[idle_first] : closed[--closed_count];
    if (idle_count) {
        idle_first = (idle_first + 1) % connections;
        idle_count--;
    }
    all[taken].state = FREE;
    return &all[taken];
}

static void rest(struct connection *c, int64_t now)
{
    c->state = RESTING;
    c->deadline = now + BACK_OFF_NS;
}

static void finish(struct connection *c, int64_t now)
{
    int64_t took = now - c->since;
    if (answers == latencies_capacity) {
        latencies_capacity = latencies_capacity ? latencies_capacity * 2 : 65536;
        latencies = need(realloc(latencies, latencies_capacity * sizeof *latencies));
    }
    latencies[answers++] = (uint32_t)(took / 1000);
    by_status[c->status]++;
    under_way--;
    last_answer = now;
    if (took > late_ns)
        late++;
    if (c->status == 200 && now <= ends)
        ok_in_time++;
    note(c->body, (uint32_t)c->status);
    c->answered++;
    if (c->closes)
        drop(c);
    c->state = FREE;
    send_next(c, now);
}

/* There will be no answer. */
static void give_up(struct connection *c, int64_t now, uint64_t *why)
{
    drop(c);
    (*why)++;
    no_answer++;
    late++;
    under_way--;
    note(c->body, 0);
    if (why == &timeouts) {
        c->state = FREE;
        send_next(c, now);
    } else
        rest(c, now);
}

/* -- Sending ---------------------------------------------------------------------------------------- */

static const unsigned char *body_at(uint32_t i, size_t *size)
{
    const unsigned char *p = map + offsets[i];
    *size = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    return p + 4;
}

static void transmit(struct connection *c, int64_t now);

static void dial(struct connection *c, int64_t now)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0) {
        give_up(c, now, &connect_errors);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) == 0) {
        c->state = SENDING;
        watch(c, 0, 1);
        transmit(c, now);
    } else if (errno == EINPROGRESS) {
        c->state = CONNECTING;
        watch(c, 1, 1);
    } else
        give_up(c, now, &connect_errors);
}

static void start(struct connection *c, int64_t now)
{
    size_t size;
    body_at(c->body, &size);
    c->head_size = (size_t)snprintf(c->head, sizeof c->head,
                                    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: text/plain\r\n"
                                    "Content-Length: %zu\r\n\r\n",
                                    path, port, size);
    c->sent = 0;
    c->filled = 0;
    c->has_head = 0;
    if (c->fd < 0)
        dial(c, now);
    else {
        c->state = SENDING;
        transmit(c, now);
    }
}

/* The server has gone; whether the body may be sent again depends on what was heard on this socket. */
static void lost(struct connection *c, int64_t now)
{
    int was_idle = c->answered > 0 && c->filled == 0 && !c->has_head && c->tries == 1;
    if (!was_idle) {
        give_up(c, now, &broken);
        return;
    }
    drop(c);
    c->tries = 2;
    resent++;
    start(c, now);
}

static void transmit(struct connection *c, int64_t now)
{
    size_t size;
    const unsigned char *body = body_at(c->body, &size);
    while (c->sent < c->head_size + size) {
        struct iovec parts[2];
        struct msghdr message = {0};
        int n = 0;
        size_t of_body = c->sent > c->head_size ? c->sent - c->head_size : 0;
        if (c->sent < c->head_size)
            parts[n++] = (struct iovec){c->head + c->sent, c->head_size - c->sent};
        parts[n++] = (struct iovec){(void *)(body + of_body), size - of_body};
        message.msg_iov = parts;
        message.msg_iovlen = n;
        ssize_t wrote = sendmsg(c->fd, &message, 0);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            watch(c, 1, 0);
            return;
        }
        if (wrote < 0) {
            lost(c, now);
            return;
        }
        c->sent += (size_t)wrote;
    }
    c->state = READING;
    watch(c, 0, 0);
}

/* Give a free connection its next body, or let it be idle. */
static void send_next(struct connection *c, int64_t now)
{
    int64_t since = now;
    if (!is_open_loop) {
        if (now >= ends || is_over) {
            become_idle(c);
            return;
        }
    } else {
        int64_t due = began + (int64_t)((double)due_count / rate * 1e9);
        if (due > now || due >= ends || is_over) {
            become_idle(c);
            return;
        }
        since = due;
    }
    if (next_body == last) {
        if (!wraps) {
            is_exhausted = 1;
            if (!is_over) {
                is_over = 1;
                ends = now < ends ? now : ends;
            }
            become_idle(c);
            return;
        }
        next_body = first;
    }
    due_count++;
    c->body = next_body++;
    c->since = since;
    c->deadline = now + timeout_ns;
    c->tries = 1;
    sent_count++;
    under_way++;
    start(c, now);
}

/* -- Reading ---------------------------------------------------------------------------------------- */

/* 1: the header is whole and read, 0: more is needed, -1: it is no HTTP. */
static int read_head(struct connection *c)
{
    for (;;) {
        char *end = NULL, *line, *stop;
        if (c->filled >= 4)
            end = memmem(c->buffer, c->filled, "\r\n\r\n", 4);
        if (!end)
            return c->filled >= HEAD_MAX ? -1 : 0;
        size_t size = (size_t)(end - c->buffer) + 4;
        int minor;
        int has_length = 0;
        *end = 0;
        if (sscanf(c->buffer, "HTTP/1.%d %3d", &minor, &c->status) != 2 || c->status < 100 || c->status > 999)
            return -1;
        c->closes = minor == 0;
        c->is_chunked = 0;
        c->left = 0;
        for (line = strstr(c->buffer, "\r\n"); line; line = stop) {
            line += 2;
            stop = strstr(line, "\r\n");
            size_t length = stop ? (size_t)(stop - line) : strlen(line);
            if (length > 15 && !strncasecmp(line, "content-length:", 15)) {
                c->left = strtoll(line + 15, NULL, 10);
                has_length = 1;
                if (c->left < 0)
                    return -1;
            } else if (length > 11 && !strncasecmp(line, "connection:", 11)) {
                char value[64];
                snprintf(value, sizeof value, "%.*s", (int)(length - 11), line + 11);
                for (char *p = value; *p; p++)
                    *p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
                if (strstr(value, "close"))
                    c->closes = 1;
                else if (strstr(value, "keep-alive"))
                    c->closes = 0;
            } else if (length > 18 && !strncasecmp(line, "transfer-encoding:", 18)) {
                c->is_chunked = 1;
                c->chunk_state = 0;
                c->line_size = 0;
                c->chunk = 0;
            }
        }
        memmove(c->buffer, c->buffer + size, c->filled - size);
        c->filled -= size;
        if (c->status < 200)
            continue; /* 100 Continue and its like: the answer is still to come */
        if (c->status == 204 || c->status == 304) {
            c->is_chunked = 0;
            c->left = 0;
            has_length = 1;
        }
        c->until_end = !c->is_chunked && !has_length;
        if (c->until_end)
            c->closes = 1;
        c->has_head = 1;
        return 1;
    }
}

static int hex(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 32;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* 1: the body is whole, 0: more is needed, -1: it is no HTTP. What was read is thrown away. */
static int read_body(struct connection *c)
{
    if (!c->is_chunked) {
        if (!c->until_end)
            c->left -= (int64_t)c->filled;
        c->filled = 0;
        if (c->left < 0)
            return -1; /* more than the answer: nobody asked for it */
        return !c->until_end && c->left == 0;
    }
    for (size_t i = 0; i < c->filled; i++) {
        char byte = c->buffer[i];
        switch (c->chunk_state) {
        case 0:
            if (byte == '\n') {
                c->chunk_state = c->chunk ? 1 : 3;
                c->left = c->chunk;
                c->line_size = 0;
            } else if (c->line_size != SIZE_MAX && hex(byte) >= 0) {
                c->chunk = c->chunk * 16 + hex(byte);
                if (++c->line_size > 8)
                    return -1;
            } else
                c->line_size = SIZE_MAX; /* an extension, or the end of the line */
            break;
        case 1:
            if (--c->left == 0)
                c->chunk_state = 2;
            break;
        case 2:
            if (byte == '\n') {
                c->chunk_state = 0;
                c->line_size = 0;
                c->chunk = 0;
            }
            break;
        default:
            if (byte == '\n') {
                if (c->line_size == 0) {
                    c->filled = 0;
                    return 1;
                }
                c->line_size = 0;
            } else if (byte != '\r')
                c->line_size++;
        }
    }
    c->filled = 0;
    return 0;
}

static void receive(struct connection *c)
{
    for (;;) {
        if (c->capacity - c->filled < 4096) {
            c->capacity = c->capacity ? c->capacity * 2 : 8192;
            c->buffer = need(realloc(c->buffer, c->capacity + 1));
        }
        ssize_t got = recv(c->fd, c->buffer + c->filled, c->capacity - c->filled, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        int64_t now = now_ns();
        if (c->state == IDLE) { /* closed by the server, or it talks out of turn: open a new one when needed */
            drop(c);
            return;
        }
        if (got <= 0) {
            if (got == 0 && c->has_head && c->until_end)
                finish(c, now);
            else
                lost(c, now);
            return;
        }
        c->filled += (size_t)got;
        int done = c->has_head ? 1 : read_head(c);
        if (done > 0)
            done = read_body(c);
        if (done < 0) {
            give_up(c, now, &broken);
            return;
        }
        if (done > 0) {
            if (c->state == SENDING)
                c->closes = 1; /* answered before all was sent, as a refusal is */
            finish(c, now);
            return;
        }
    }
}

static void ready(struct connection *c, int can_write, int can_read)
{
    if (c->state == CONNECTING) {
        int fault = 0;
        socklen_t size = sizeof fault;
        if (!can_write && !can_read)
            return;
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &fault, &size) < 0 || fault) {
            give_up(c, now_ns(), &connect_errors);
            return;
        }
        c->state = SENDING;
        transmit(c, now_ns());
        return;
    }
    /* What the server has already said comes before its having gone. */
    if (can_read)
        receive(c);
    if (can_write && c->fd >= 0 && c->state == SENDING)
        transmit(c, now_ns());
}

static void wait_until(int64_t when)
{
#ifdef USE_EPOLL
    struct epoll_event events[256];
    int64_t delay = when - now_ns();
    struct itimerspec at = {.it_value = {when / 1000000000LL, when % 1000000000LL}};
    if (delay > 0)
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    int n = epoll_wait(poller, events, 256, delay > 0 ? -1 : 0);
    for (int i = 0; i < n; i++) {
        uint32_t e = events[i].events;
        if (events[i].data.u32 == UINT32_MAX) {
            uint64_t ticks;
            if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
                die("timer");
            continue;
        }
        struct connection *c = &all[events[i].data.u32];
        if (c->fd >= 0)
            ready(c, !!(e & (EPOLLOUT | EPOLLERR | EPOLLHUP)), !!(e & (EPOLLIN | EPOLLERR | EPOLLHUP)));
    }
#else
    int64_t delay = when - now_ns();
    int n = poll(polled, (nfds_t)connections, delay <= 0 ? 0 : (int)((delay + 999999) / 1000000));
    for (int i = 0; n > 0 && i < connections; i++) {
        short e = polled[i].revents;
        if (polled[i].fd >= 0 && e)
            ready(&all[i], !!(e & (POLLOUT | POLLERR | POLLHUP)), !!(e & (POLLIN | POLLERR | POLLHUP)));
    }
#endif
}

/* -- The run ---------------------------------------------------------------------------------------- */

static void run(void)
{
    int64_t swept = began;
    for (int i = connections - 1; i >= 0; i--) {
        all[i].fd = -1;
        become_idle(&all[i]);
    }
    for (;;) {
        int64_t now = now_ns();
        /* Only those idle now, once each: each either takes a body or goes back. */
        for (int n = idle_count + closed_count; n > 0; n--) {
            int64_t due = began + (int64_t)((double)due_count / rate * 1e9);
            if (is_over || (is_open_loop ? due > now || due >= ends : now >= ends))
                break;
            send_next(take_idle(), now);
        }
        int64_t due = is_open_loop ? began + (int64_t)((double)due_count / rate * 1e9) : ends;
        int nothing_more = is_over || (is_open_loop ? due >= ends : now >= ends);
        if (now >= ends && under_way == 0 && nothing_more)
            return;
        if (now >= ends + timeout_ns) {
            /* An open loop that is so far behind counts what was due and never sent. */
            for (int i = 0; i < connections; i++)
                if (all[i].state >= CONNECTING && all[i].state <= READING) {
                    no_answer++;
                    timeouts++;
                    late++;
                    note(all[i].body, 0);
                }
            return;
        }
        if (now - swept >= SWEEP_NS) {
            swept = now;
            for (int i = 0; i < connections; i++) {
                struct connection *c = &all[i];
                if (c->state == RESTING && now >= c->deadline) {
                    c->state = FREE;
                    send_next(c, now);
                } else if (c->state >= CONNECTING && c->state <= READING && now >= c->deadline)
                    give_up(c, now, &timeouts);
            }
        }
        int64_t wake = now + SWEEP_NS;
        if (is_open_loop && idle_count + closed_count > 0 && !is_over && due < ends && due < wake)
            wake = due;
        if (now < ends && ends < wake)
            wake = ends;
        wait_until(wake);
    }
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double share)
{
    if (!answers)
        return 0;
    size_t rank = (size_t)(share * (double)answers);
    if ((double)rank < share * (double)answers)
        rank++;
    return latencies[rank ? rank - 1 : 0] / 1000.0;
}

static void map_bodies(const char *file)
{
    struct stat found;
    size_t capacity = 0, at = 0;
    int fd = open(file, O_RDONLY);
    if (fd < 0 || fstat(fd, &found) < 0)
        die(file);
    map_size = (size_t)found.st_size;
    errno = 0;
    if (map_size == 0)
        die("no bodies");
    map = mmap(NULL, map_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        die(file);
    close(fd);
    while (at + 4 <= map_size) {
        if (bodies == capacity) {
            capacity = capacity ? capacity * 2 : 65536;
            offsets = need(realloc(offsets, capacity * sizeof *offsets));
        }
        offsets[bodies] = at;
        size_t size;
        body_at(bodies, &size);
        if (size > map_size - at - 4)
            die("the bodies' file is cut off");
        bodies++;
        at += 4 + size;
    }
    if (at != map_size)
        die("the bodies' file is cut off");
}

static double number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= 0)) {
        fprintf(stderr, "load: %s is no number\n", text);
        exit(2);
    }
    return value;
}

int main(int count, char **words)
{
    double seconds = 0;
    const char *file = NULL, *ledger_file = NULL;
    struct rusage used;
    for (int i = 1; i < count; i++) {
        const char *name = words[i];
        if (!strcmp(name, "--wrap")) {
            wraps = 1;
            continue;
        }
        if (++i == count)
            die("a value is missing");
        const char *value = words[i];
        if (!strcmp(name, "--port"))
            port = (int)number(value);
        else if (!strcmp(name, "--path"))
            path = value;
        else if (!strcmp(name, "--bodies"))
            file = value;
        else if (!strcmp(name, "--connections"))
            connections = (int)number(value);
        else if (!strcmp(name, "--seconds"))
            seconds = number(value);
        else if (!strcmp(name, "--rate"))
            rate = number(value);
        else if (!strcmp(name, "--first"))
            first = (uint32_t)number(value);
        else if (!strcmp(name, "--last"))
            last = (uint32_t)number(value);
        else if (!strcmp(name, "--timeout-ms"))
            timeout_ns = (int64_t)(number(value) * 1e6);
        else if (!strcmp(name, "--late-ms"))
            late_ns = (int64_t)(number(value) * 1e6);
        else if (!strcmp(name, "--ledger"))
            ledger_file = value;
        else
            die("an option is unknown");
    }
    errno = 0;
    if (!file || port < 1 || port > 65535 || connections < 1 || connections > 10000 || seconds <= 0 ||
        strlen(path) > 200)
        die("--port, --bodies, --connections and --seconds are needed");
    map_bodies(file);
    if (!last || last > bodies)
        last = bodies;
    if (first >= last)
        die("no bodies");
    next_body = first;
    is_open_loop = rate > 0;
    signal(SIGPIPE, SIG_IGN);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (ledger_file && !(ledger = fopen(ledger_file, "wb")))
        die(ledger_file);
    all = need(calloc((size_t)connections, sizeof *all));
    idle = need(calloc((size_t)connections, sizeof *idle));
    closed = need(calloc((size_t)connections, sizeof *closed));
    watch_begin();
    began = now_ns();
    ends = began + (int64_t)(seconds * 1e9);
    int64_t planned_end = ends;
    run();
    double in_window = (double)(ends - began) / 1e9;
    if (ledger && fclose(ledger) != 0)
        die("cannot write the ledger");
    /* What was due and never sent, since no connection came free. */
    uint64_t due_in_all = sent_count;
    if (is_open_loop && !is_exhausted) {
        due_in_all = (uint64_t)((double)(planned_end - began) / 1e9 * rate);
        if (due_in_all < sent_count)
            due_in_all = sent_count;
    }
    uint64_t unsent = due_in_all - sent_count;
    late += unsent;
    if (answers)
        qsort(latencies, answers, sizeof *latencies, ascending);
    getrusage(RUSAGE_SELF, &used);
    /* An open loop that fell behind is answered after its window. */
    double elapsed = in_window;
    uint64_t ok = ok_in_time;
    if (is_open_loop) {
        ok = by_status[200];
        double took = (double)(last_answer - began) / 1e9;
        elapsed = took > in_window ? took : in_window;
    }
    printf("{\"connections\": %d, \"rate\": %.3f, \"window_s\": %.6f, \"sent\": %llu, \"answered\": %llu, "
           "\"unanswered\": %llu, \"unsent\": %llu, \"exhausted\": %s, \"resent\": %llu, \"timeouts\": %llu, "
           "\"connect_errors\": %llu, \"broken\": %llu, \"ok_in_window\": %llu, \"per_second\": %.3f, "
           "\"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f, "
           "\"late\": %llu, \"cpu_s\": %.6f, \"statuses\": {",
           connections, rate, in_window, (unsigned long long)sent_count, (unsigned long long)answers,
           (unsigned long long)no_answer, (unsigned long long)unsent, is_exhausted ? "true" : "false",
           (unsigned long long)resent, (unsigned long long)timeouts, (unsigned long long)connect_errors,
           (unsigned long long)broken, (unsigned long long)ok_in_time, (double)ok / elapsed, percentile(0.5),
           percentile(0.9), percentile(0.99), percentile(0.999), percentile(1), (unsigned long long)late,
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    const char *separator = "";
    for (int status = 0; status < 1000; status++)
        if (by_status[status]) {
            printf("%s\"%d\": %llu", separator, status, (unsigned long long)by_status[status]);
            separator = ", ";
        }
    printf("}}\n");
    return 0;
}
