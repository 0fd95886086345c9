/* What the shim was told, which files are under test, and the log. */
#define _GNU_SOURCE
#include "tests/fault/shim.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/fault/shim_log.h"

enum { MAX_FD = 1024 };
enum how { HOW_ERRNO, HOW_SHORT, HOW_KILL, HOW_KILLED };

static struct {
    bool ready;
    char under[4096];
    size_t n_under;
    int call; /* enum fault_call; FAULT_N_CALL: any */
    int64_t at;
    enum how how;
    int number; /* of errno.h */
    bool ever, trace, kill_after;
    int log;
    int64_t n_open;
    struct fault_report *report, own;
    char *paths[MAX_FD];
    int64_t numbers[MAX_FD];
    pthread_mutex_t mutex;
} shim = { .log = -1, .mutex = PTHREAD_MUTEX_INITIALIZER };

#define CALL_TEXT(name) #name,
static const char *const call_names[] = { FAULT_CALLS(CALL_TEXT) };
#undef CALL_TEXT

/* ---- start ---- */

static void map_report(const char *path)
{
    shim.report = &shim.own;
    const int fd = path != NULL ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = (void *)syscall(SYS_mmap, NULL, sizeof *shim.report, PROT_READ | PROT_WRITE,
                              MAP_SHARED, fd, 0L);
    if (p != MAP_FAILED)
        shim.report = p;
    syscall(SYS_close, fd);
}

static void read_how(const char *text)
{
    shim.how = HOW_ERRNO;
    if (strcmp(text, "short") == 0)
        shim.how = HOW_SHORT;
    else if (strcmp(text, "kill") == 0)
        shim.how = HOW_KILL;
    else if (strcmp(text, "killed") == 0)
        shim.how = HOW_KILLED;
    else
        shim.number = atoi(text);
}

/* Not a constructor alone: others' may open files before it. */
static void start(void)
{
    if (shim.ready)
        return;
    shim.ready = true;
    const char *under = getenv("FAULT_UNDER"), *call = getenv("FAULT_CALL");
    const char *at = getenv("FAULT_AT"), *how = getenv("FAULT_DO"), *log = getenv("FAULT_LOG");
    if (under != NULL && strlen(under) < sizeof shim.under) {
        shim.n_under = strlen(under);
        memcpy(shim.under, under, shim.n_under);
    }
    shim.call = FAULT_N_CALL;
    for (int i = 0; call != NULL && i < FAULT_N_CALL; i++)
        shim.call = strcmp(call, call_names[i]) == 0 ? i : shim.call;
    shim.at = at != NULL ? atoll(at) : 0;
    read_how(how != NULL ? how : "5");
    shim.ever = getenv("FAULT_EVER") != NULL;
    shim.trace = getenv("FAULT_TRACE") != NULL;
    map_report(getenv("FAULT_REPORT"));
    if (log != NULL)
        shim.log = (int)syscall(SYS_openat, AT_FDCWD, log,
                                O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

__attribute__((constructor)) static void start_early(void)
{
    start();
}

void shim_lock(void)
{
    pthread_mutex_lock(&shim.mutex);
}

void shim_unlock(void)
{
    const int saved = errno;
    pthread_mutex_unlock(&shim.mutex);
    errno = saved;
}

/* ---- which call ---- */

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static void note(enum fault_call call, const char *path)
{
    if (shim.report->hits++ > 0)
        return;
    size_t n = 0;
    for (const char *from[] = { call_names[call], " ", path, NULL }, **p = from; *p != NULL; p++) {
        for (const char *c = *p; *c != '\0' && n + 1 < sizeof shim.report->what; c++)
            shim.report->what[n++] = *c;
    }
    shim.report->what[n] = '\0';
}

enum shim_action shim_before(enum fault_call call, const char *path)
{
    shim.report->calls[call]++;
    shim.report->all++;
    shim.kill_after = false;
    if (shim.at == 0 || (shim.call != FAULT_N_CALL && shim.call != (int)call))
        return SHIM_PASS;
    const int64_t k = __atomic_add_fetch(&shim.report->made, 1, __ATOMIC_RELAXED);
    if (k != shim.at && !(shim.ever && k > shim.at))
        return SHIM_PASS;
    note(call, path);
    if (shim.trace) {
        void *frames[32];
        backtrace_symbols_fd(frames, backtrace(frames, 32), 2);
    }
    switch (shim.how) {
    case HOW_SHORT:
        return SHIM_SHORT;
    case HOW_KILL:
        die();
        break;
    case HOW_KILLED:
        shim.kill_after = true;
        return SHIM_PASS;
    case HOW_ERRNO:
        break;
    }
    errno = shim.number;
    return SHIM_FAIL;
}

void shim_after(void)
{
    if (shim.kill_after)
        die();
}

/* ---- which files ---- */

/* "/a/./b//c/../d" is "/a/b/d". */
static void tidy(char *path)
{
    char *to = path;
    for (const char *from = path; *from != '\0';) {
        size_t n = strcspn(from + 1, "/") + 1; /* "/name" */
        if (n == 3 && strncmp(from, "/..", 3) == 0) {
            while (to > path && *--to != '/')
                ;
        } else if (n > 1 && !(n == 2 && from[1] == '.')) {
            memmove(to, from, n);
            to += n;
        }
        from += n;
    }
    *to = '\0';
}

bool shim_is_under(int folder, const char *path, char out[4096])
{
    start();
    if (shim.n_under == 0 || path == NULL)
        return false;
    size_t n = 0;
    if (path[0] != '/' && folder != AT_FDCWD) {
        const char *base = shim_path(folder);
        if (base == NULL)
            return false;
        n = strlen(base);
        memcpy(out, base, n + 1);
    } else if (path[0] != '/') {
        if (syscall(SYS_getcwd, out, 4096L) < 0)
            return false;
        n = strlen(out);
    }
    const size_t more = strlen(path);
    if (n + more + 2 > 4096)
        return false;
    if (path[0] != '/')
        out[n++] = '/';
    memcpy(out + n, path, more + 1);
    tidy(out);
    return strncmp(out, shim.under, shim.n_under) == 0 &&
           (out[shim.n_under] == '/' || out[shim.n_under] == '\0');
}

void shim_track(int fd, const char *path)
{
    if (fd < 0 || fd >= MAX_FD)
        return;
    free(shim.paths[fd]);
    shim.paths[fd] = strdup(path);
    shim.numbers[fd] = ++shim.n_open;
}

void shim_forget(int fd)
{
    if (fd < 0 || fd >= MAX_FD)
        return;
    free(shim.paths[fd]);
    shim.paths[fd] = NULL;
}

const char *shim_path(int fd)
{
    return fd >= 0 && fd < MAX_FD ? shim.paths[fd] : NULL;
}

/* ---- the log ---- */

static void put(const void *data, size_t n)
{
    const char *from = data;
    while (n > 0) {
        const ssize_t put = syscall(SYS_write, shim.log, from, n);
        if (put <= 0)
            abort(); /* a log with a hole proves nothing */
        from += put;
        n -= (size_t)put;
    }
}

void shim_log(enum shim_change change, const char *path, const char *to, int fd, int64_t offset,
              const void *data, size_t n)
{
    const int saved = errno;
    if (shim.log < 0)
        return;
    const struct shim_record r = { .change = change,
                                   .path_bytes = path != NULL ? (uint32_t)strlen(path) : 0,
                                   .to_bytes = to != NULL ? (uint32_t)strlen(to) : 0,
                                   .number = fd >= 0 && fd < MAX_FD ? shim.numbers[fd] : 0,
                                   .offset = offset,
                                   .data_bytes = n };
    put(&r, sizeof r);
    put(path, r.path_bytes);
    put(to, r.to_bytes);
    put(data, n);
    errno = saved;
}
