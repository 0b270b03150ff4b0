// A disk that fails when it is told to, for the tests of tests/faults: preloaded, it stands before the system calls that
// change files under one folder, counts them, writes down what they do, and at the nth lets the disk be full (that call
// and all after it that need room), or ends the process with SIGKILL (a write is half done then).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, COUNT, FULL, KILL };
enum { FILES = 1024, LENGTH = 1024 };

static char prefix[LENGTH];
static int mode = OFF, trace = -1;
static long number, at;
static char names[FILES][LENGTH];  // of open files under the prefix, by descriptor

void disk_arm(const char *folder, int how, long nth, int trace_file) {
    snprintf(prefix, sizeof prefix, "%s", folder);
    number = 0, at = nth, trace = trace_file, mode = how;
}
long disk_disarm(void) {
    mode = OFF;
    return number;
}

static int inside(const char *path) {
    size_t n = strlen(prefix);
    return mode != OFF && !strncmp(path, prefix, n) && (!path[n] || path[n] == '/');
}
static const char *named(int file) { return mode != OFF && file >= 0 && file < FILES && *names[file] ? names[file] : NULL; }

static void full_path(char *out, int folder, const char *path) {
    const char *base = folder >= 0 && folder < FILES ? names[folder] : "";
    if (*path == '/' || !*base) snprintf(out, LENGTH, "%s", path);
    else snprintf(out, LENGTH, "%.500s/%.500s", base, path);
}

static void tell(const char *what, const char *a, const char *b, long offset, const void *data, size_t length) {
    if (trace < 0) return;
    char line[3 * LENGTH];
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", what, a, b, offset, length);
    syscall(SYS_write, trace, line, (size_t)n);
    if (data) syscall(SYS_write, trace, data, length);
}

// How much room a change needs: removing never fails for want of it, a new name only may, bytes do from then on.
enum { FREES, MAY, NEEDS };
// One more change. 0: go on; 1: this is the one. With a full disk all that need room after it are the one, too.
static int turn(int needs_room) {
    number++;
    if (mode == KILL && number == at) return 1;
    return mode == FULL && needs_room != FREES && (number == at || (number > at && needs_room == NEEDS));
}
static int refuse(int needs_room) {
    if (!turn(needs_room)) return 0;
    if (mode == KILL) kill(getpid(), SIGKILL);
    errno = ENOSPC;
    return 1;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

static int opened(int file, const char *path) {
    if (file >= 0 && file < FILES) snprintf(names[file], LENGTH, "%s", inside(path) ? path : "");
    return file;
}
static int open_at(int folder, const char *path, int flags, mode_t rights) {
    char whole[LENGTH];
    full_path(whole, folder, path);
    int known = inside(whole), made = 0, cut = 0;
    if (known && (flags & O_CREAT)) {
        struct stat found;
        int there = fstatat(folder, path, &found, 0) == 0;
        made = !there, cut = there && (flags & O_TRUNC) && found.st_size;
        if ((made || cut) && refuse(made ? NEEDS : FREES)) return -1;
    }
    int file = (int)syscall(SYS_openat, folder, path, flags, rights);
    if (file >= 0 && made) tell("create", whole, "", 0, NULL, 0);
    if (file >= 0 && cut) tell("cut", whole, "", 0, NULL, 0);
    return opened(file, whole);
}
#define RIGHTS(flags) \
    mode_t rights = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); rights = va_arg(more, mode_t); va_end(more); }
int open(const char *path, int flags, ...) { RIGHTS(flags) return open_at(AT_FDCWD, path, flags, rights); }
int open64(const char *path, int flags, ...) { RIGHTS(flags) return open_at(AT_FDCWD, path, flags | O_LARGEFILE, rights); }
int openat(int folder, const char *path, int flags, ...) { RIGHTS(flags) return open_at(folder, path, flags, rights); }
int openat64(int folder, const char *path, int flags, ...) { RIGHTS(flags) return open_at(folder, path, flags, rights); }
int close(int file) {
    if (file >= 0 && file < FILES) *names[file] = 0;
    return (int)syscall(SYS_close, file);
}

ssize_t write(int file, const void *data, size_t length) {
    const char *name = named(file);
    if (!name || !length) return syscall(SYS_write, file, data, length);
    long offset = lseek(file, 0, SEEK_CUR);
    if (fcntl(file, F_GETFL) & O_APPEND) offset = lseek(file, 0, SEEK_END);
    if (turn(NEEDS)) {
        if (number == at && length > 1) {  // half of it
            ssize_t half = syscall(SYS_write, file, data, length / 2);
            if (mode == KILL) kill(getpid(), SIGKILL);
            return half;
        }
        if (mode == KILL) kill(getpid(), SIGKILL);
        errno = ENOSPC;
        return -1;
    }
    ssize_t done = syscall(SYS_write, file, data, length);
    if (done > 0) tell("write", name, "", offset, data, (size_t)done);
    return done;
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t length) {
    if (!named(out)) return syscall(SYS_sendfile, out, in, offset, length);
    char *data = malloc(length = length < 65536 ? length : 65536);
    ssize_t have = offset ? pread(in, data, length, *offset) : read(in, data, length);
    ssize_t done = have > 0 ? write(out, data, (size_t)have) : have;
    if (done > 0 && offset) *offset += done;
    free(data);
    return done;
}
ssize_t sendfile(int out, int in, off_t *offset, size_t length) { return sendfile64(out, in, offset, length); }

int ftruncate64(int file, off64_t length) {
    const char *name = named(file);
    if (name && refuse(MAY)) return -1;
    int done = (int)syscall(SYS_ftruncate, file, length);
    if (name && !done) tell("cut", name, "", length, NULL, 0);
    return done;
}
int ftruncate(int file, off_t length) { return ftruncate64(file, length); }
int fsync(int file) {
    const char *name = named(file);
    if (name && refuse(MAY)) return -1;
    int done = (int)syscall(SYS_fsync, file);
    if (name && !done) tell("sync", name, "", 0, NULL, 0);
    return done;
}
int fdatasync(int file) { return fsync(file); }

int renameat2(int from, const char *a, int to, const char *b, unsigned flags) {
    char x[LENGTH], y[LENGTH];
    full_path(x, from, a), full_path(y, to, b);
    int known = inside(x) || inside(y);
    if (known && refuse(MAY)) return -1;
    int done = (int)syscall(SYS_renameat2, from, a, to, b, flags);
    if (known && !done) tell(flags ? "exchange" : "rename", x, y, 0, NULL, 0);
    return done;
}
int rename(const char *a, const char *b) { return renameat2(AT_FDCWD, a, AT_FDCWD, b, 0); }
int renameat(int from, const char *a, int to, const char *b) { return renameat2(from, a, to, b, 0); }

int unlinkat(int folder, const char *path, int flags) {
    char whole[LENGTH];
    full_path(whole, folder, path);
    if (inside(whole) && refuse(FREES)) return -1;
    int done = (int)syscall(SYS_unlinkat, folder, path, flags);
    if (inside(whole) && !done) tell("remove", whole, "", 0, NULL, 0);
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t rights) {
    if (inside(path) && access(path, F_OK) && refuse(NEEDS)) return -1;
    int done = (int)syscall(SYS_mkdirat, AT_FDCWD, path, rights);
    if (inside(path) && !done) tell("mkdir", path, "", 0, NULL, 0);
    return done;
}
