/* Preloaded into a process (LD_PRELOAD); does nothing until told to, by ctypes:
 *
 * shim_record(log, folder)   every change to a file in `folder` is written to the file descriptor `log`, in the order in
 *                            which it was made: a power cut can then be played at any of them. `record` has the format.
 * shim_fail(after, number)   after so many changes each further one fails with this errno; the disk is full, or gone.
 * shim_clock()               the offset in seconds of CLOCK_REALTIME, in memory shared with forked children;
 *                            shim_use_clock(1) puts it to use in this process.
 *
 * A lock is held from before a change until it is in the log, so the log's order is the true one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILES = 4096 };
enum { NOTHING, FILE_OF_OURS, FOLDER };

/* What follows it in the log: `name_length` bytes of a name, then `length` bytes of data. */
struct record {
    char kind;       /* c create, w write, t truncate, s sync (a file), d sync (the folder), r rename, u unlink */
    char pad[3];
    uint32_t name_length;
    uint64_t file;   /* inode */
    int64_t offset;  /* of a write, or the new size */
    int64_t length;
    double begun, ended; /* CLOCK_MONOTONIC */
};

static struct { char what; uint64_t inode; } files[MAX_FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_to = -1, fails_with, counting;
static long left;
static char folder[1024];
static volatile int64_t *offset;
static int clock_on;

static double now(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void shim_record(int log, const char *path) {
    strncpy(folder, path, sizeof folder - 1);
    log_to = log;
}

void shim_fail(long after, int number) {
    left = after, fails_with = number, counting = 1;
}

volatile int64_t *shim_clock(void) {
    if (!offset) offset = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return offset;
}

void shim_use_clock(int on) { clock_on = on && shim_clock(); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* ---- what is ours ---- */

static const char *name_in_folder(const char *path) {
    size_t n = strlen(folder);
    if (!n || strncmp(path, folder, n) || path[n] != '/' || strchr(path + n + 1, '/')) return 0;
    size_t m = strlen(path);
    if (m > 4 && !strcmp(path + m - 4, "-shm")) return 0; /* SQLite's index: in memory, made anew */
    if (m > 5 && !strcmp(path + m - 5, ".lock")) return 0;
    return path + n + 1;
}

static void put(char kind, uint64_t inode, int64_t at, const char *name, const void *data, int64_t n, double begun) {
    if (log_to < 0) return;
    struct record r = {.kind = kind, .name_length = name ? (uint32_t)strlen(name) : 0, .file = inode, .offset = at,
                       .length = n, .begun = begun, .ended = now()};
    struct iovec parts[3] = {{&r, sizeof r}, {(void *)name, r.name_length}, {(void *)data, (size_t)n}};
    if (syscall(SYS_writev, log_to, parts, 3) < 0) log_to = -1;
}

/* Whether a change is to fail now; the lock is held. */
static int refused(void) {
    if (!counting || left-- > 0) return 0;
    left = 0;
    errno = fails_with;
    return 1;
}

static int is_file(int fd) { return fd >= 0 && fd < MAX_FILES && files[fd].what == FILE_OF_OURS; }

#define LOCKED(result_type, ...) \
    pthread_mutex_lock(&lock); double begun = now(); result_type result; int kept; __VA_ARGS__ \
    kept = errno; pthread_mutex_unlock(&lock); errno = kept; return result

static int opened(int fd, const char *path, int flags, int was_there) {
    if (fd < 0 || fd >= MAX_FILES) return fd;
    files[fd].what = NOTHING;
    if (*folder && !strcmp(path, folder)) files[fd].what = FOLDER;
    const char *name = name_in_folder(path);
    struct stat found;
    if (!name || fstat(fd, &found)) return fd;
    files[fd].what = FILE_OF_OURS;
    files[fd].inode = found.st_ino;
    if (!was_there) put('c', found.st_ino, 0, name, 0, 0, now());
    else if (flags & O_TRUNC) put('t', found.st_ino, 0, 0, 0, 0, now());
    return fd;
}

#define OPEN(name, parameters, path, call) \
    int name parameters { \
        va_list rest; va_start(rest, flags); int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; va_end(rest); \
        int ours = *folder && (name_in_folder(path) || !strcmp(path, folder)); \
        if (!ours) { int fd = call; if (fd >= 0 && fd < MAX_FILES) files[fd].what = NOTHING; return fd; } \
        LOCKED(int, { struct stat s; int there = !stat(path, &s); (void)begun; \
            if (!there && (flags & O_CREAT) && refused()) result = -1; \
            else result = opened(call, path, flags, there); }); \
    }

OPEN(open, (const char *path, int flags, ...), path, REAL(open)(path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), path, REAL(open64)(path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), path, REAL(openat)(at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), path, REAL(openat64)(at, path, flags, mode))

int close(int fd) {
    if (fd >= 0 && fd < MAX_FILES) files[fd].what = NOTHING;
    return REAL(close)(fd);
}

/* ---- changes ---- */

static ssize_t write_at(int fd, const void *data, size_t n, off_t at, int positioned) {
    LOCKED(ssize_t, {
        off_t where = positioned ? at : lseek(fd, 0, SEEK_CUR);
        if (refused()) result = -1;
        else {
            result = positioned ? syscall(SYS_pwrite64, fd, data, n, at) : syscall(SYS_write, fd, data, n);
            if (result > 0) put('w', files[fd].inode, where, 0, data, result, begun);
        }
    });
}

ssize_t write(int fd, const void *data, size_t n) {
    return is_file(fd) ? write_at(fd, data, n, 0, 0) : syscall(SYS_write, fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return is_file(fd) ? write_at(fd, data, n, at, 1) : syscall(SYS_pwrite64, fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return pwrite(fd, data, n, at); }

int ftruncate(int fd, off_t size) {
    if (!is_file(fd)) return (int)syscall(SYS_ftruncate, fd, size);
    LOCKED(int, {
        if (refused()) result = -1;
        else if (!(result = (int)syscall(SYS_ftruncate, fd, size))) put('t', files[fd].inode, size, 0, 0, 0, begun);
    });
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

/* The disk itself is not asked: what matters is what was asked of it. */
static int synced(int fd) {
    LOCKED(int, {
        if (refused()) result = -1;
        else put(files[fd].what == FOLDER ? 'd' : 's', files[fd].inode, 0, 0, 0, 0, begun), result = 0;
    });
}
int fsync(int fd) {
    return fd >= 0 && fd < MAX_FILES && files[fd].what ? synced(fd) : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
    return fd >= 0 && fd < MAX_FILES && files[fd].what ? synced(fd) : (int)syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to) {
    const char *old = name_in_folder(from); const char *new = name_in_folder(to);
    if (!old || !new) return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    LOCKED(int, {
        if (refused()) result = -1;
        else if (!(result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0)))
            put('r', 0, 0, old, new, (int64_t)strlen(new), begun);
    });
}

int unlink(const char *path) {
    const char *name = name_in_folder(path);
    if (!name) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    LOCKED(int, {
        if (!(result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0))) put('u', 0, 0, name, 0, 0, begun);
    });
}

/* ---- the clock ---- */

int clock_gettime(clockid_t which, struct timespec *t) {
    int result = (int)syscall(SYS_clock_gettime, which, t);
    if (clock_on && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) t->tv_sec += *offset;
    return result;
}
int gettimeofday(struct timeval *t, void *zone) {
    int result = (int)syscall(SYS_gettimeofday, t, zone);
    if (clock_on && t) t->tv_sec += *offset;
    return result;
}
time_t time(time_t *t) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (t) *t = found.tv_sec;
    return found.tv_sec;
}
