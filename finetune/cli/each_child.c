/* A run that crashes or eats up the memory ends alone, and what it held is given back: so each is a
 * child. It is a fork without exec: the recipe is handed over as it was checked, whatever has
 * happened to its file since, and there is nothing to quote. That is sound here because the parent
 * has no thread but this one and has not touched OpenMP or a device.
 *
 * The child is a process group of its own: what a terminal or timeout(1) sends to the group reaches
 * the parent alone, which passes it on, and a run does not take one Ctrl-C for two. The signals are
 * blocked in the parent (a descriptor tells of them) and so, from the start, in the child, where
 * the run's own thread waits for them: none is lost before it does. Should the parent be killed,
 * the kernel sends the child TERM, and it saves and leaves.
 *
 * The child's stderr is a pipe, so that the message of a failure can be told again in the table.
 */
#include "finetune/cli/each_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "finetune/cli/cli.h"
#include "kernels/core/text.h"

/* ---- signals ---- */

bool each_signals_open(struct each_signals *s, struct err *err)
{
    static const int numbers[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD };
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&set, numbers[i]);
    struct sigaction hangup;
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN)
        sigdelset(&set, SIGHUP); /* nohup */
    *s = EACH_SIGNALS_NONE;
    if (sigprocmask(SIG_BLOCK, &set, &s->before) != 0)
        return err_set(err, ERR_INTERNAL, "signals cannot be blocked: %s", strerror(errno));
    s->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->fd >= 0)
        return true;
    err_set(err, ERR_NO_MEMORY, "no descriptor for signals: %s", strerror(errno));
    sigprocmask(SIG_SETMASK, &s->before, NULL);
    return false;
}

void each_signals_close(struct each_signals *s)
{
    if (s->fd < 0)
        return;
    each_signals_stop(s); /* takes what is pending, which would end us when let through */
    close(s->fd);
    sigprocmask(SIG_SETMASK, &s->before, NULL);
    s->fd = -1;
}

/* Passes all that have come on to the child (0: there is none). */
static void take_signals(struct each_signals *s, pid_t child)
{
    struct signalfd_siginfo info;
    while (read(s->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        const int number = (int)info.ssi_signo;
        if (number == SIGCHLD)
            continue;
        if (number != SIGUSR2)
            s->stop = true;
        if (child > 0)
            kill(child, number);
    }
}

bool each_signals_stop(struct each_signals *s)
{
    take_signals(s, 0);
    return s->stop;
}

/* ---- what the child says ---- */

enum { MAX_MESSAGES = 2000, MAX_LINE = 4000 };

struct listener {
    int fd;              /* the pipe's end to read from */
    struct text line;    /* begun */
    struct text kept;    /* the lines that tell of a failure */
    char last[MAX_LINE]; /* line that is not empty */
};

static void end_line(struct listener *l)
{
    static const char *const remarks[] = { "jambatune: warning: ", "jambatune: note: " };
    static const char mark[] = "jambatune: ";
    const char *line = l->line.data;
    if (line == NULL || l->line.len == 0)
        return;
    bool keep = text_starts_with(line, mark);
    for (size_t i = 0; i < sizeof remarks / sizeof *remarks; i++)
        keep = keep && !text_starts_with(line, remarks[i]);
    if (keep && l->kept.len + l->line.len < MAX_MESSAGES)
        text_printf(&l->kept, "%s%s", l->kept.len > 0 ? "\n" : "", line + sizeof mark - 1);
    snprintf(l->last, sizeof l->last, "%s", line);
    text_clear(&l->line);
}

static void write_all(const char *bytes, size_t n)
{
    while (n > 0) {
        const ssize_t done = write(STDERR_FILENO, bytes, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return; /* stderr is closed or full: that is no reason to stop */
        bytes += done;
        n -= (size_t)done;
    }
}

/* Reads what there is; false at the end. */
static bool listen_on(struct listener *l)
{
    char bytes[4096];
    for (;;) {
        const ssize_t n = read(l->fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        write_all(bytes, (size_t)n);
        for (ssize_t i = 0; i < n; i++) {
            if (bytes[i] == '\n' || bytes[i] == '\r')
                end_line(l);
            else if (l->line.len < MAX_LINE && bytes[i] != '\0')
                text_append(&l->line, &bytes[i], 1);
        }
    }
}

/* ---- the child ---- */

_Noreturn static void be_child(const struct recipe *recipe, const struct train_flags *flags,
                               const struct each_signals *signals, int close_fd, const int pipe_[2],
                               pid_t parent)
{
    setpgid(0, 0);
    close(signals->fd);
    if (close_fd >= 0)
        close(close_fd); /* the parent's lock stays the parent's */
    if (dup2(pipe_[1], STDOUT_FILENO) < 0 || dup2(pipe_[1], STDERR_FILENO) < 0)
        _exit(ERR_INTERNAL);
    close(pipe_[0]);
    close(pipe_[1]);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) /* killed before that */
        _exit(ERR_STOPPED);
    exit(train_run(recipe, flags));
}

/* Waits for the child's end; *status as of waitpid. */
static void watch_child(pid_t child, struct each_signals *signals, struct listener *l, int *status)
{
    bool listening = true;
    for (;;) {
        struct pollfd fds[] = { { .fd = signals->fd, .events = POLLIN },
                                { .fd = listening ? l->fd : -1, .events = POLLIN } };
        /* The limit is for a CHLD that came while a signal of ours was ignored by whoever began
         * the program: then none comes. */
        poll(fds, 2, 1000);
        take_signals(signals, child);
        listening = listening && listen_on(l);
        const pid_t got = waitpid(child, status, WNOHANG);
        if (got == child || (got < 0 && errno != EINTR))
            break;
    }
    if (listening)
        listen_on(l);
    end_line(l);
}

static bool describe_end(int status, struct listener *l, struct each_end *end, struct err *err)
{
    if (WIFSIGNALED(status)) {
        const int number = WTERMSIG(status);
        end->code = 128 + number;
        end->messages = text_format("ended by signal %d (%s)%s%s", number, strsignal(number),
                                    l->last[0] != '\0' ? "; its last line: " : "", l->last);
    } else {
        end->code = WEXITSTATUS(status);
        if (end->code == 0)
            return true;
        end->messages = text_copy(l->kept.data != NULL && l->kept.len > 0 ? l->kept.data : l->last);
    }
    return end->messages != NULL || err_no_memory(err, "a run's messages");
}

bool each_child_run(const struct recipe *recipe, const struct train_flags *flags,
                    struct each_signals *signals, int close_fd, struct each_end *end,
                    struct err *err)
{
    int ends[2];
    *end = (struct each_end){ 0 };
    if (pipe(ends) != 0)
        return err_set(err, ERR_NO_MEMORY, "no pipe for a run: %s", strerror(errno));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fflush(NULL); /* or the child would print it again */
    const pid_t parent = getpid(), child = fork();
    if (child == 0)
        be_child(recipe, flags, signals, close_fd, ends, parent);
    close(ends[1]);
    bool ok = child > 0;
    if (ok) {
        setpgid(child, child); /* whoever of the two is first */
        struct listener l = { .fd = ends[0] };
        int status = ERR_INTERNAL << 8;
        watch_child(child, signals, &l, &status);
        ok = describe_end(status, &l, end, err);
        text_free(&l.line);
        text_free(&l.kept);
    } else {
        err_set(err, ERR_NO_MEMORY, "no process for a run: %s", strerror(errno));
    }
    close(ends[0]);
    return ok;
}

void each_end_free(struct each_end *end)
{
    free(end->messages);
    *end = (struct each_end){ 0 };
}
