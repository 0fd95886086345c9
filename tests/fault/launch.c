#define _GNU_SOURCE /* memfd_create, ppoll */
#include "tests/fault/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/fault/tree.h"

enum { MAX_ARGS = 32 };

/* Where the program's output and its report go: memory with a descriptor. */
struct ends {
    int out, err, report;
};

double launch_clock(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int memory_file(const char *name)
{
    const int fd = memfd_create(name, MFD_CLOEXEC);
    /* Linux locks the position of no such file: without O_APPEND two threads' lines would lie on
     * top of each other. */
    if (fd < 0 || fcntl(fd, F_SETFL, O_APPEND) != 0)
        tree_die("memfd_create: %s", strerror(errno));
    return fd;
}

static void set(const char *name, const char *value)
{
    if (value != NULL ? setenv(name, value, 1) != 0 : unsetenv(name) != 0)
        _exit(98);
}

/* In the child. Of the environment only what is set here differs from the test's. */
static void set_environment(const struct launch *l, const struct ends *e)
{
    char number[32], report[64];
    snprintf(number, sizeof number, "%lld", (long long)l->at);
    snprintf(report, sizeof report, "/proc/%ld/fd/%d", (long)getppid(), e->report);
    set("OMP_WAIT_POLICY", "passive");
    set("JAMBATUNE_CUDA_MODULE", "none");
    set("LC_ALL", "C");
    set("FAULT_UNDER", l->under);
    set("FAULT_CALL", l->call);
    set("FAULT_AT", number);
    set("FAULT_DO", l->how);
    set("FAULT_EVER", l->ever ? "1" : NULL);
    set("FAULT_LOG", l->log);
    set("FAULT_STACKS", l->stacks);
    set("FAULT_REPORT", report);
    set("LD_PRELOAD", l->shim);
    /* The sanitizer would be the first library; and what it finds must differ from our own codes.
     */
    set("ASAN_OPTIONS", "verify_asan_link_order=0:exitcode=97:detect_leaks=1");
    set("LSAN_OPTIONS", "exitcode=97");
}

static void start(const struct launch *l, const struct ends *e)
{
    const char *args[MAX_ARGS + 2] = { l->program };
    int n = 1;
    for (const char *const *a = l->args; *a != NULL && n <= MAX_ARGS; a++)
        args[n++] = *a;
    const int in = open(l->input != NULL ? l->input : "/dev/null", O_RDONLY);
    if (in < 0 || dup2(in, 0) < 0 || dup2(e->out, 1) < 0 || dup2(e->err, 2) < 0)
        _exit(98);
    if (in > 2)
        close(in);
    set_environment(l, e);
    execv(l->program, (char *const *)(uintptr_t)args);
    _exit(98);
}

static pid_t fork_program(const struct launch *l, const struct ends *e)
{
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0)
        tree_die("fork: %s", strerror(errno));
    if (child == 0)
        start(l, e);
    return child;
}

int64_t launch_start(const struct launch *l)
{
    const struct ends e = { .out = open("/dev/null", O_WRONLY), .err = e.out, .report = -1 };
    const pid_t child = fork_program(l, &e);
    close(e.out);
    return child;
}

/* True when the child ended before the time. */
static bool wait_until(int child, double when)
{
    const double left = when - launch_clock();
    if (left <= 0)
        return false;
    struct pollfd p = { .fd = child, .events = POLLIN };
    const struct timespec ts = { .tv_sec = (time_t)left,
                                 .tv_nsec = (long)(1e9 * (left - (double)(time_t)left)) };
    return ppoll(&p, 1, &ts, NULL) > 0;
}

static void see_through(const struct launch *l, pid_t child, struct landing *r)
{
    const int handle = (int)syscall(SYS_pidfd_open, child, 0);
    if (handle < 0)
        tree_die("pidfd_open: %s", strerror(errno));
    const double begin = launch_clock(), limit = l->limit > 0 ? l->limit : 60;
    bool ended = false;
    if (l->signal != 0) {
        ended = wait_until(handle, begin + l->signal_after);
        if (!ended)
            kill(child, l->signal);
    }
    if (!ended && l->signal2 != 0) {
        ended = wait_until(handle, begin + l->signal2_after);
        if (!ended)
            kill(child, l->signal2);
    }
    const bool hung = !ended && !wait_until(handle, begin + limit);
    if (hung)
        kill(child, SIGKILL);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    r->seconds = launch_clock() - begin;
    r->code = hung                  ? LANDING_HUNG
              : WIFSIGNALED(status) ? 128 + WTERMSIG(status)
                                    : WEXITSTATUS(status);
    close(handle);
}

static char *take(int fd, size_t *size)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        tree_die("fstat: %s", strerror(errno));
    char *text = tree_alloc((size_t)st.st_size + 1);
    if (pread(fd, text, (size_t)st.st_size, 0) != st.st_size)
        tree_die("pread: %s", strerror(errno));
    close(fd);
    if (size != NULL)
        *size = (size_t)st.st_size;
    return text;
}

void launch(const struct launch *l, struct landing *r)
{
    *r = (struct landing){ 0 };
    const struct ends e = { .out = memory_file("out"),
                            .err = memory_file("err"),
                            .report = memory_file("report") };
    if (ftruncate(e.report, sizeof r->report) != 0)
        tree_die("ftruncate: %s", strerror(errno));
    see_through(l, fork_program(l, &e), r);
    r->out = take(e.out, &r->out_size);
    r->err = take(e.err, NULL);
    if (pread(e.report, &r->report, sizeof r->report, 0) != sizeof r->report)
        tree_die("pread: %s", strerror(errno));
    close(e.report);
}

void landing_free(struct landing *r)
{
    free(r->out);
    free(r->err);
    *r = (struct landing){ 0 };
}
