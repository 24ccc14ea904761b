/*
 * The floor: the least work that a client can do to hand one prepared message to M recipients, one each.
 *
 * One thread, epoll, N connections. With PIPELINING (RFC 2920) the body of a message, its final dot and the MAIL, RCPT
 * and DATA of the next one are one group: one sendmsg, and as a rule one read for the four replies. Nothing is
 * composed, recorded or tried again; any reply but the expected one ends the run. What `bulkmail send` costs beyond
 * this is its own.
 *
 *     floor --host ADDRESS --port P --connections N --messages M --message FILE [--nap-us U] [--recipients R]
 *
 * FILE has CRLF line ends and no doubled dots. Prints {"messages": M, "seconds": S}: S from before the first connect()
 * to the reply to the last message's dot. With --nap-us it sleeps so long before it asks epoll: replies gather
 * meanwhile, so that both sides wake up less often. With --recipients each message has R of them, and M counts recipients.
 *
 * Compiled with -DTLS it is the floor of an encrypted client: STARTTLS, TLS 1.3, the same groups, each one SSL_write.
 * --ca-file PEM is what it trusts.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { MAX_REPLIES = 4096, MAX_COMMANDS = 160, MAX_RCPT = 48, MAX_RECIPIENTS = 100, MAX_EVENTS = 128 };
enum { SILENCE_MS = 60000 };
static const char SENDER[] = "news@example.test";
enum phase { GREETING, EHLO, STARTTLS, STEADY, QUIT };
enum came { OVER, NOTHING, SOME };

struct connection {
    int fd;
    SSL *tls;                   /* NULL while the connection is in clear */
    enum phase phase;
    int pipelining;
    int asked_for;              /* recipients of the envelope that is sent: the next group opens with its message */
    int sent_for;               /* recipients of the message that is sent; the next reply is its own */
    const char *due;            /* first digits of the replies still to come, such as "2223" */
    struct iovec left[2];       /* what is not written yet */
    int waits_to_write;
    char *body;                 /* the message; with TLS a copy of its own, which the commands follow at once */
    char *commands;
    size_t have;                /* bytes of an unfinished reply in `in` */
    char in[MAX_REPLIES];
};

static int events;
static char *message;
static const char *host = "127.0.0.1", *ca_file;
static size_t message_len;
static char replies[MAX_RECIPIENTS + 4]; /* those to a dot, MAIL and all RCPT, and to DATA: "222...23" */
static long messages, started, accepted, nap_us, recipients = 1;
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

#ifdef TLS
__attribute__((noreturn)) static void fail_tls(const char *what)
{
    fail("TLS, %s: %s", what, ERR_reason_error_string(ERR_get_error()));
}

/* STARTTLS was granted. The handshake blocks: it is not what is measured. */
static void secure(struct connection *c)
{
    static SSL_CTX *context;
    if (!context) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
        SSL_CTX_set_read_ahead(context, 1); /* one read() a record instead of two */
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        if (ca_file && SSL_CTX_load_verify_locations(context, ca_file, NULL) != 1)
            fail_tls(ca_file);
    }
    c->tls = SSL_new(context);
    int flags = fcntl(c->fd, F_GETFL);
    fcntl(c->fd, F_SETFL, flags & ~O_NONBLOCK);
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(c->tls), host);
    if (SSL_set_fd(c->tls, c->fd) != 1 || SSL_connect(c->tls) != 1)
        fail_tls("handshake");
    fcntl(c->fd, F_SETFL, flags);
}

/* All of the group or nothing of it: SSL_write goes on where it was when it is called with the same again. */
static ssize_t put_tls(struct connection *c)
{
    const struct iovec *from = c->left + (c->left[0].iov_len == 0);
    int sent = SSL_write(c->tls, from->iov_base, (int)(c->left[0].iov_len + c->left[1].iov_len));
    if (sent <= 0 && SSL_get_error(c->tls, sent) != SSL_ERROR_WANT_WRITE)
        fail_tls("write");
    return sent <= 0 ? 0 : sent;
}

static ssize_t get_tls(struct connection *c, char *into, size_t room)
{
    int got = SSL_read(c->tls, into, (int)room);
    if (got > 0)
        return got;
    if (SSL_get_error(c->tls, got) != SSL_ERROR_WANT_READ)
        fail_tls("read");
    errno = EAGAIN;
    return -1;
}

static int is_more(const struct connection *c)
{
    return c->tls && SSL_has_pending(c->tls);
}

static void hang_up(struct connection *c)
{
    SSL_shutdown(c->tls);
    close(c->fd);
}
#else
/* Never called: without -DTLS no connection has `tls`. */
static ssize_t put_tls(struct connection *c) { (void)c; return 0; }
static ssize_t get_tls(struct connection *c, char *into, size_t room) { (void)c; (void)into; (void)room; return 0; }
static int is_more(const struct connection *c) { (void)c; return 0; }
static void hang_up(struct connection *c) { close(c->fd); }
#endif

static ssize_t put(struct connection *c)
{
    int skip = c->left[0].iov_len == 0;
    struct msghdr out = {.msg_iov = c->left + skip, .msg_iovlen = (size_t)(2 - skip)};
    ssize_t sent = sendmsg(c->fd, &out, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("write: %s", strerror(errno));
    return sent < 0 ? 0 : sent;
}

/* Write what is left; what the socket does not take waits for EPOLLOUT. */
static void flush_out(struct connection *c)
{
    size_t taken = (size_t)(c->tls ? put_tls(c) : put(c));
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

/* The commands of the next message; their length. */
static int envelope(struct connection *c)
{
    char *end = c->commands + sprintf(c->commands, "MAIL FROM:<%s>\r\n", SENDER);
    for (int i = 0; i < c->asked_for; i++)
        end += sprintf(end, "RCPT TO:<user%ld@example.test>\r\n", started++);
    return (int)(end - c->commands) + sprintf(end, "DATA\r\n");
}

/* Every reply that was due has come: the next group, which opens with the body when DATA was granted. */
static void next_group(struct connection *c)
{
    if (c->phase == GREETING || c->phase == STARTTLS) {
#ifdef TLS
        if (c->phase == STARTTLS)
            secure(c);
#endif
        say(c, EHLO, "2", sprintf(c->commands, "EHLO floor.example.test\r\n"));
        return;
    }
#ifdef TLS
    if (!c->tls) {
        say(c, STARTTLS, "2", sprintf(c->commands, "STARTTLS\r\n"));
        return;
    }
#endif
    if (!c->pipelining)
        fail("the server announces no PIPELINING");
    c->sent_for = c->asked_for;
    if (c->sent_for)
        c->left[0] = (struct iovec){c->body, message_len};
    c->asked_for = (int)(messages - started < recipients ? messages - started : recipients);
    if (c->asked_for)
        say(c, STEADY, replies + recipients + 1 - c->asked_for - (c->sent_for > 0), envelope(c));
    else
        say(c, QUIT, c->sent_for ? "22" : "2", sprintf(c->commands, "QUIT\r\n"));
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
    accepted += c->sent_for;
    if (c->sent_for && accepted == messages)
        clock_gettime(CLOCK_MONOTONIC, &last);
    c->sent_for = 0;
    c->due++;
}

/* Read and answer what came. */
static enum came readable(struct connection *c)
{
    char *into = c->in + c->have;
    size_t room = sizeof c->in - c->have;
    ssize_t got = c->tls ? get_tls(c, into, room) : read(c->fd, into, room);
    if (got < 0 && errno == EAGAIN)
        return NOTHING;
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
        return SOME;
    if (c->phase == QUIT) {
        hang_up(c);
        return OVER;
    }
    next_group(c);
    return SOME;
}

/* What the TLS layer has read ahead makes no event. */
static int is_over(struct connection *c)
{
    enum came what;
    do
        what = readable(c);
    while (what == SOME && is_more(c));
    return what == OVER;
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
    c->body = message;
    size_t room = MAX_COMMANDS + (size_t)recipients * MAX_RCPT;
    c->commands = malloc(room);
#ifdef TLS
    c->body = malloc(message_len + room);
    memcpy(c->body, message, message_len);
    c->commands = c->body + message_len;
#endif
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
        if (nap_us)
            usleep((useconds_t)nap_us);
        int count = epoll_wait(events, ready, MAX_EVENTS, SILENCE_MS);
        if (count == 0)
            fail("nothing came for %d s; %ld of %ld accepted", SILENCE_MS / 1000, accepted, messages);
        for (int i = 0; i < count; i++) {
            struct connection *c = ready[i].data.ptr;
            if (ready[i].events & ~(uint32_t)EPOLLOUT)
                open -= is_over(c);
            else
                flush_out(c);
        }
    }
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", 1, 0, 'h'},     {"port", 1, 0, 'p'},    {"connections", 1, 0, 'c'},
        {"messages", 1, 0, 'm'}, {"message", 1, 0, 'f'}, {"nap-us", 1, 0, 'n'},
        {"ca-file", 1, 0, 't'},  {"recipients", 1, 0, 'r'}, {0, 0, 0, 0},
    };
    struct sockaddr_in server = {.sin_family = AF_INET};
    const char *file = NULL;
    long connections = 1;
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 'h' && inet_pton(AF_INET, host = optarg, &server.sin_addr) != 1)
            fail("--host %s: not an IPv4 address", optarg);
        else if (o == 'n')
            nap_us = atol(optarg);
        else if (o == 'r')
            recipients = atol(optarg);
        else if (o == 't')
            ca_file = optarg;
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
    if (recipients < 1 || recipients > MAX_RECIPIENTS)
        fail("--recipients: 1 to %d", MAX_RECIPIENTS);
    memset(replies, '2', (size_t)recipients + 2);
    replies[recipients + 2] = '3';
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
