/* Makes system calls fail, for a program that is started with this before its C library:
 *
 *     cc -shared -fPIC -o shim.so shim.c -ldl
 *     SVDO_FAULT=write:3:28 LD_PRELOAD=./shim.so program
 *
 * CALL:N:ERRNO fails the Nth call (open, read, write, fsync, rename, thread) with that errno, and no
 * other; N = 0 every second call. ERRNO = 0 lets all reads or writes end early instead; ERRNO = -9 kills
 * the program before the call. The standard streams are left alone. SVDO_FAULT_LOG names a file that
 * exists afterwards if any call was touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long count;

/* What happens to this call: 0 nothing, -1 it is shortened, else the errno with which it fails. */
static int fault(const char *call) {
    const char *said = getenv("SVDO_FAULT");
    size_t length = strlen(call);
    if (!said || strncmp(said, call, length) || said[length] != ':') return 0;
    char *rest;
    long at = strtol(said + length + 1, &rest, 10), number = strtol(rest + 1, NULL, 10);
    long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    int hit = number == 0 || (at ? now == at : now % 2 == 1);
    const char *log = getenv("SVDO_FAULT_LOG");
    if (hit && log) {
        int file = creat(log, 0600);
        if (file >= 0) close(file);
    }
    if (hit && number < 0) kill(getpid(), (int)-number);
    return !hit ? 0 : number ? (int)number : -1;
}

static size_t shorter(size_t length) { return length > 1 ? 1 + length / 3 : length; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(call) do { int e = fault(call); if (e > 0) { errno = e; return -1; } } while (0)

ssize_t read(int fd, void *to, size_t length) {
    REAL(read);
    int e = fd > 2 ? fault("read") : 0;
    if (e > 0) { errno = e; return -1; }
    return real(fd, to, e ? shorter(length) : length);
}

ssize_t pread64(int fd, void *to, size_t length, off64_t at) {
    REAL(pread64);
    int e = fault("read");
    if (e > 0) { errno = e; return -1; }
    return real(fd, to, e ? shorter(length) : length, at);
}

ssize_t write(int fd, const void *from, size_t length) {
    REAL(write);
    int e = fd > 2 ? fault("write") : 0;
    if (e > 0) { errno = e; return -1; }
    return real(fd, from, e ? shorter(length) : length);
}

int fsync(int fd) { REAL(fsync); FAIL("fsync"); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); FAIL("fsync"); return real(fd); }
int rename(const char *from, const char *to) { REAL(rename); FAIL("rename"); return real(from, to); }

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    REAL(open64);
    FAIL("open");
    return real(path, flags, mode);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *with) {
    REAL(pthread_create);
    int e = fault("thread");
    return e > 0 ? e : real(thread, attr, run, with);
}
