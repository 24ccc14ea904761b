/*
 * The floor: the least work that a client can do to hand one prepared message to M recipients, one each.
 *
 * One thread, epoll, N connections. With PIPELINING (RFC 2920) the body of a message, its final dot and the MAIL, RCPT
 * and DATA of the next one are one group: one sendmsg, and as a rule one read for the four replies. Nothing is
 * composed, recorded or tried again; any reply but the expected one ends the run. What `bulkmail send` costs beyond
 * this is its own.
 *
 *     floor --host ADDRESS --port P --connections N --messages M --message FILE
 *
 * FILE has CRLF line ends and no doubled dots. Prints {"messages": M, "seconds": S}: S from before the first connect()
 * to the reply to the last message's dot.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPLIES = 4096, MAX_EVENTS = 128, SILENCE_MS = 60000 };
static const char SENDER[] = "news@example.test";
enum phase { GREETING, EHLO, STEADY, QUIT };

struct connection {
    int fd;
    enum phase phase;
    int pipelining;
    int body_next;              /* DATA was granted: the next group opens with the message */
    const char *due;            /* first digits of the replies still to come, such as "2223" */
    struct iovec left[2];       /* what is not written yet */
    int waits_to_write;
    char commands[160];
    size_t have;                /* bytes of an unfinished reply in `in` */
    char in[MAX_REPLIES];
};

static int events;
static char *message;
static size_t message_len;
static long messages, started, accepted;
static struct timespec first, last;

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("floor: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void watch(struct connection *c, int operation, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.ptr = c};
    if (epoll_ctl(events, operation, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Write what is left; what the socket does not take waits for EPOLLOUT. */
static void flush_out(struct connection *c)
{
    int skip = c->left[0].iov_len == 0;
    struct msghdr out = {.msg_iov = c->left + skip, .msg_iovlen = (size_t)(2 - skip)};
    ssize_t sent = sendmsg(c->fd, &out, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("write: %s", strerror(errno));
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    for (struct iovec *part = c->left; part < c->left + 2; part++) {
        size_t of_this = taken < part->iov_len ? taken : part->iov_len;
        part->iov_base = (char *)part->iov_base + of_this;
        part->iov_len -= of_this;
        taken -= of_this;
    }
    int waits = c->left[0].iov_len + c->left[1].iov_len > 0;
    if (waits != c->waits_to_write)
        watch(c, EPOLL_CTL_MOD, waits ? EPOLLIN | EPOLLOUT : EPOLLIN);
    c->waits_to_write = waits;
}

static void say(struct connection *c, enum phase phase, const char *due, int length)
{
    c->phase = phase;
    c->due = due;
    c->left[1] = (struct iovec){c->commands, (size_t)length};
    flush_out(c);
}

/* Every reply that was due has come: the next group, which opens with the body when DATA was granted. */
static void next_group(struct connection *c)
{
    if (c->phase == GREETING) {
        say(c, EHLO, "2", sprintf(c->commands, "EHLO floor.example.test\r\n"));
        return;
    }
    if (!c->pipelining)
        fail("the server announces no PIPELINING");
    int body = c->body_next;
    if (body)
        c->left[0] = (struct iovec){message, message_len};
    c->body_next = started < messages;
    if (c->body_next)
        say(c, STEADY, body ? "2223" : "223",
            sprintf(c->commands, "MAIL FROM:<%s>\r\nRCPT TO:<user%ld@example.test>\r\nDATA\r\n", SENDER, started++));
    else
        say(c, QUIT, body ? "22" : "2", sprintf(c->commands, "QUIT\r\n"));
}

/* The first reply of a group that opened with a body answers that body's dot. */
static int answers_dot(const struct connection *c)
{
    return (c->phase == STEADY && strlen(c->due) == 4) || (c->phase == QUIT && strlen(c->due) == 2);
}

/* One line of a reply, `length` bytes without its line end. */
static void reply_line(struct connection *c, const char *line, size_t length)
{
    if (*c->due == '\0' || length < 3 || line[0] != *c->due)
        fail("unexpected: %.*s", (int)length, line);
    if (c->phase == EHLO && length >= 14 && strncasecmp(line + 4, "PIPELINING", 10) == 0)
        c->pipelining = 1;
    if (length > 3 && line[3] == '-')
        return;
    if (answers_dot(c) && ++accepted == messages)
        clock_gettime(CLOCK_MONOTONIC, &last);
    c->due++;
}

/* Read and answer what came; 0 once the connection is over. */
static int readable(struct connection *c)
{
    ssize_t got = read(c->fd, c->in + c->have, sizeof c->in - c->have);
    if (got < 0 && errno == EAGAIN)
        return 1;
    if (got <= 0)
        fail("connection lost: %s", got < 0 ? strerror(errno) : "closed by the server");
    char *line = c->in, *end = c->in + c->have + got, *lf;
    while ((lf = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        size_t length = (size_t)(lf - line);
        reply_line(c, line, length && lf[-1] == '\r' ? length - 1 : length);
        line = lf + 1;
    }
    c->have = (size_t)(end - line);
    if (c->have == sizeof c->in)
        fail("a reply line of more than %d bytes", MAX_REPLIES);
    memmove(c->in, line, c->have);
    if (*c->due)
        return 1;
    if (c->phase == QUIT) {
        close(c->fd);
        return 0;
    }
    next_group(c);
    return 1;
}

/* The file with its dots doubled and the final dot: what goes over the wire. */
static void load(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat about;
    if (!file || fstat(fileno(file), &about) < 0)
        fail("%s: %s", path, strerror(errno));
    message = malloc(2 * (size_t)about.st_size + 5);
    int previous = '\n', byte;
    while ((byte = getc(file)) != EOF) {
        if (byte == '.' && previous == '\n')
            message[message_len++] = '.';
        message[message_len++] = (char)byte;
        previous = byte;
    }
    fclose(file);
    const char *ending = previous == '\n' ? ".\r\n" : "\r\n.\r\n";
    memcpy(message + message_len, ending, strlen(ending));
    message_len += strlen(ending);
}

static void dial(struct connection *c, const struct sockaddr_in *server)
{
    int yes = 1;
    c->due = "2";
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) < 0)
        fail("socket: %s", strerror(errno));
    if (connect(c->fd, (const struct sockaddr *)server, sizeof *server) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void run(int open)
{
    struct epoll_event ready[MAX_EVENTS];
    while (open > 0) {
        int count = epoll_wait(events, ready, MAX_EVENTS, SILENCE_MS);
        if (count == 0)
            fail("nothing came for %d s; %ld of %ld accepted", SILENCE_MS / 1000, accepted, messages);
        for (int i = 0; i < count; i++) {
            struct connection *c = ready[i].data.ptr;
            if (ready[i].events & ~(uint32_t)EPOLLOUT)
                open -= !readable(c);
            else
                flush_out(c);
        }
    }
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", 1, 0, 'h'},     {"port", 1, 0, 'p'},    {"connections", 1, 0, 'c'},
        {"messages", 1, 0, 'm'}, {"message", 1, 0, 'f'}, {0, 0, 0, 0},
    };
    struct sockaddr_in server = {.sin_family = AF_INET};
    const char *file = NULL;
    long connections = 1;
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 'h' && inet_pton(AF_INET, optarg, &server.sin_addr) != 1)
            fail("--host %s: not an IPv4 address", optarg);
        else if (o == 'p')
            server.sin_port = htons((uint16_t)atoi(optarg));
        else if (o == 'c')
            connections = atol(optarg);
        else if (o == 'm')
            messages = atol(optarg);
        else if (o == 'f')
            file = optarg;
        else if (o == '?')
            return 2;
    }
    if (!file || !server.sin_port || messages < 1 || connections < 1)
        fail("wants --port, --messages and --message");
    if (connections > messages)
        connections = messages;
    load(file);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    if ((events = epoll_create1(0)) < 0)
        fail("epoll_create1: %s", strerror(errno));
    clock_gettime(CLOCK_MONOTONIC, &first);
    for (long i = 0; i < connections; i++)
        dial(all + i, &server);
    run((int)connections);
    if (accepted != messages)
        fail("%ld of %ld accepted", accepted, messages);
    printf("{\"messages\": %ld, \"seconds\": %.6f}\n", messages,
           (double)(last.tv_sec - first.tv_sec) + (double)(last.tv_nsec - first.tv_nsec) / 1e9);
    return 0;
}
