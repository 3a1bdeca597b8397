// A library for LD_PRELOAD that lets the N-th change of a file below a folder fail.
//
// FAULT_UNDER  the folder
// FAULT_AT     number of the change, from 0; none fails if it is not given
// FAULT_KIND   kill: the process ends, after half of the bytes if it is a write
//              full: half of the bytes are written, then there is no space, now and for all later writes
//              error: EIO, once
//              stop: SIGINT just before it, once; with FAULT_THEN the process is killed at that later change
// FAULT_LOG    a file that gets a line a change
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long changes = 0;

enum fault { NONE, KILL, FULL, ERROR };

#define REAL(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int under(const char *path) {
    const char *folder = getenv("FAULT_UNDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

// The path of an open file.
static const char *path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return path;
}

// Counts a change, and says what happens to it.
static enum fault next(const char *what, const char *path, int takes_room) {
    const char *at = getenv("FAULT_AT"), *kind = getenv("FAULT_KIND"), *then = getenv("FAULT_THEN");
    const char *log = getenv("FAULT_LOG");
    pthread_mutex_lock(&mutex);
    long number = changes++;
    if (log) {
        int fd = REAL(open, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, what, path);
        if (fd >= 0) {
            (void)!REAL(write, fd, line, length);
            REAL(close, fd);
        }
    }
    pthread_mutex_unlock(&mutex);
    if (!at || !kind) return NONE;
    long fault = atol(at);
    if (!strcmp(kind, "kill") && number == fault) return KILL;
    if (!strcmp(kind, "error") && number == fault) return ERROR;
    if (!strcmp(kind, "full") && number >= fault && takes_room) return FULL;
    if (!strcmp(kind, "stop")) {
        if (number == fault) raise(SIGINT); // to this thread, so that it is noted before the change
        if (then && number == atol(then)) return KILL;
    }
    return NONE;
}

static int fails(const char *what, const char *path, int takes_room) {
    switch (next(what, path, takes_room)) {
    case NONE: return 0;
    case KILL: die(); return 1;
    case FULL: errno = ENOSPC; return 1;
    default: errno = EIO; return 1;
    }
}

static int opened(const char *path, int flags) {
    return under(path) && (flags & (O_CREAT | O_TRUNC)) && fails("open", path, 1);
}

#define OPEN(name)                                             \
    int name(const char *path, int flags, ...) {               \
        va_list args;                                          \
        va_start(args, flags);                                 \
        mode_t mode = va_arg(args, mode_t);                    \
        va_end(args);                                          \
        if (opened(path, flags)) return -1;                    \
        return REAL(name, path, flags, mode);                  \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *bytes, size_t count) {
    char path[PATH_MAX];
    if (fd > 2 && under(path_of(fd, path))) {
        switch (next("write", path, 1)) {
        case NONE: break;
        case KILL:
            (void)!REAL(write, fd, bytes, count / 2);
            die();
            return -1;
        case FULL:
            // The next call finds no room at all.
            if (count > 1) return REAL(write, fd, bytes, count / 2);
            errno = ENOSPC;
            return -1;
        default: errno = EIO; return -1;
        }
    }
    return REAL(write, fd, bytes, count);
}

#define ON_FILE(name)                                                   \
    int name(int fd) {                                                  \
        char path[PATH_MAX];                                            \
        if (under(path_of(fd, path)) && fails(#name, path, 0)) return -1; \
        return REAL(name, fd);                                          \
    }
ON_FILE(fsync)
ON_FILE(fdatasync)

#define ON_PATH(name)                                            \
    int name(const char *path) {                                 \
        if (under(path) && fails(#name, path, 0)) return -1;     \
        return REAL(name, path);                                 \
    }
ON_PATH(unlink)
ON_PATH(rmdir)

int mkdir(const char *path, mode_t mode) {
    if (under(path) && fails("mkdir", path, 1)) return -1;
    return REAL(mkdir, path, mode);
}

int rename(const char *from, const char *to) {
    if (under(to) && fails("rename", to, 0)) return -1;
    return REAL(rename, from, to);
}

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    const char *around = folder == AT_FDCWD ? name : path_of(folder, path);
    if (under(around) && fails("unlinkat", name, 0)) return -1;
    return REAL(unlinkat, folder, name, flags);
}

#define TRUNCATE(name, type)                                                  \
    int name(int fd, type length) {                                           \
        char path[PATH_MAX];                                                  \
        if (under(path_of(fd, path)) && fails("truncate", path, 1)) return -1; \
        return REAL(name, fd, length);                                        \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
