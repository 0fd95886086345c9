#define _GNU_SOURCE /* renameat2 */
#include "finetune/train/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"
#include "lora/format_peft.h"

enum { LOCK_LIMIT = 1 << 16 };

void output_time(char out[OUTPUT_TIME_SIZE])
{
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) == NULL ||
        strftime(out, OUTPUT_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
        snprintf(out, OUTPUT_TIME_SIZE, "?");
}

void output_host(char out[OUTPUT_HOST_SIZE])
{
    if (gethostname(out, OUTPUT_HOST_SIZE - 1) != 0 || !text_is_utf8(out, strlen(out), NULL))
        snprintf(out, OUTPUT_HOST_SIZE, "?");
    out[OUTPUT_HOST_SIZE - 1] = '\0';
}

/* What tells one start of the machine from another; "?" where there is no such thing. */
static void boot_name(char out[64])
{
    file_read_start("/proc/sys/kernel/random/boot_id", out, 64);
    out[strcspn(out, "\n")] = '\0';
    if (*out == '\0')
        snprintf(out, 64, "?");
}

/* Who we are, as the lock's file says it; caller frees. */
static char *holder_text(void)
{
    char host[OUTPUT_HOST_SIZE], boot[64], started[OUTPUT_TIME_SIZE];
    output_host(host);
    boot_name(boot);
    output_time(started);
    json_t *holder = json_pack("{s:I,s:s,s:s,s:s}", "pid", (json_int_t)getpid(), "host", host,
                               "boot", boot, "started", started);
    char *text = json_to_text(holder, JSON_COMPACT);
    json_decref(holder);
    return text;
}

/* "process 123 on node7, since 2026-...", as far as the file tells. */
static void describe_holder(const char *path, char *out, size_t size)
{
    char *text = NULL;
    size_t n = 0;
    snprintf(out, size, "another run");
    json_t *holder =
        file_read(path, LOCK_LIMIT, &text, &n, NULL) ? json_parse(text, n, path, NULL) : NULL;
    const char *host = json_string_value(json_object_get(holder, "host"));
    const char *since = json_string_value(json_object_get(holder, "started"));
    if (host != NULL && since != NULL)
        snprintf(out, size, "another run (process %" PRId64 " on %.100s, since %.40s)",
                 (int64_t)json_integer_value(json_object_get(holder, "pid")), host, since);
    json_decref(holder);
    free(text);
}

static bool write_all(int fd, const char *path, const char *text, struct err *err)
{
    const size_t n = strlen(text);
    for (size_t at = 0; at < n;) {
        const ssize_t put = write(fd, text + at, n - at);
        if (put < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
        at += put > 0 ? (size_t)put : 0;
    }
    return true;
}

static bool refuse(const char *dir, const char *path, struct err *err)
{
    char holder[256];
    describe_holder(path, holder, sizeof holder);
    return err_set(err, ERR_CANT_CREATE,
                   "%s: is in use by %s; wait for it, or set another output_dir", dir, holder);
}

/* ---- without locks ---- */

/* Whether the process that an exclusive file's text names is gone: only this machine since its last
 * start can tell. */
static bool names_gone(const char *text, size_t n, const char *path)
{
    char host[OUTPUT_HOST_SIZE], boot[64];
    json_t *holder = text != NULL ? json_parse(text, n, path, NULL) : NULL;
    const char *its_host = json_string_value(json_object_get(holder, "host"));
    const char *its_boot = json_string_value(json_object_get(holder, "boot"));
    const json_int_t pid = json_integer_value(json_object_get(holder, "pid"));
    output_host(host);
    boot_name(boot);
    bool gone = false;
    if (its_host != NULL && its_boot != NULL && strcmp(host, its_host) == 0)
        gone =
            strcmp(boot, its_boot) != 0 || (pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH);
    json_decref(holder);
    return gone;
}

static bool is_gone(const char *path)
{
    char *text = NULL;
    size_t n = 0;
    const bool gone = file_read(path, LOCK_LIMIT, &text, &n, NULL) && names_gone(text, n, path);
    free(text);
    return gone;
}

bool output_exclusive_held(const char *dir, char **text)
{
    char *path = text_format("%s/%s.exclusive", dir, OUTPUT_LOCK_NAME);
    size_t n = 0;
    *text = NULL;
    const bool held = path != NULL && file_exists(path) &&
                      file_read(path, LOCK_LIMIT, text, &n, NULL) && !names_gone(*text, n, path);
    free(path);
    return held;
}

/* Puts the file there with its text in it, in one step, or not at all: a disk that is full or a
 * kill must not leave one that names nobody. Returns it open; -1, with errno set, when it is there
 * (EEXIST) or for another reason. */
static int create_exclusive(const char *path, const char *text)
{
    char *partial = text_format("%s.%ld", path, (long)getpid());
    if (partial == NULL)
        return -1;
    int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = fd >= 0 && write_all(fd, partial, text, NULL) && fsync(fd) == 0;
    if (ok && link(partial, path) != 0) /* where there are no links, renaming does as well */
        ok = errno != EEXIST && renameat2(AT_FDCWD, partial, AT_FDCWD, path, RENAME_NOREPLACE) == 0;
    const int why = errno;
    if (fd >= 0)
        unlink(partial);
    if (fd >= 0 && !ok) {
        close(fd);
        fd = -1;
    }
    free(partial);
    errno = why;
    return fd;
}

/* The file of a run that is gone is removed by one process at a time: of two that saw the same dead
 * one, the second must not remove what the first has put in its place. */
static bool take_over(const char *path, const char *text, int *fd, struct err *err)
{
    char *turn = text_format("%s.takeover", path);
    if (turn == NULL)
        return err_no_memory(err, path);
    const int mine = open(turn, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (mine >= 0) {
        if (is_gone(path) && unlink(path) == 0)
            *fd = create_exclusive(path, text);
        close(mine);
        unlink(turn);
    }
    free(turn);
    return true;
}

static bool refuse_exclusive(const char *dir, const char *path, struct err *err)
{
    struct err in_use = { 0 };
    refuse(dir, path, &in_use);
    return err_set(err, ERR_CANT_CREATE,
                   "%s. Locks do not work there: if that run is dead, remove %s and %s.takeover",
                   in_use.text, path, path);
}

static bool lock_exclusive(struct output *o, const char *dir, const char *text, struct err *err)
{
    char *path = text_format("%s/%s.exclusive", dir, OUTPUT_LOCK_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    o->held = create_exclusive(path, text);
    const int why = errno;
    if (o->held < 0 && why != EEXIST)
        err_set(err,
                why == ENOSPC || why == EDQUOT || why == EFBIG || why == EIO ? ERR_IO
                                                                             : ERR_CANT_CREATE,
                "%s: cannot be created: %s", path, strerror(why));
    else if (o->held < 0 && (!is_gone(path) || take_over(path, text, &o->held, err)) && o->held < 0)
        refuse_exclusive(dir, path, err);
    if (o->held >= 0)
        o->exclusive = path;
    else
        free(path);
    return o->held >= 0;
}

/* ---- the lock ---- */

/* With some patience: `status` holds the lock for a moment to see whether a run does. */
static bool lock_now(int fd)
{
    const struct timespec moment = { .tv_nsec = 10000000 };
    for (int i = 0; i < 8; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return true;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return false;
        nanosleep(&moment, NULL);
    }
    errno = EWOULDBLOCK;
    return false;
}

static bool take(struct output *o, const char *dir, const char *path, const char *text,
                 struct err *err)
{
    o->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (o->lock < 0)
        return err_set(err, ERR_CANT_CREATE, "%s: cannot be opened: %s", path, strerror(errno));
    if (!lock_now(o->lock)) {
        if (errno == EWOULDBLOCK)
            return refuse(dir, path, err);
        if (!lock_exclusive(o, dir, text, err))
            return false;
    }
    return (ftruncate(o->lock, 0) == 0 && lseek(o->lock, 0, SEEK_SET) == 0)
               ? write_all(o->lock, path, text, err)
               : err_set(err, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

bool output_lock(struct output *o, const char *dir, struct err *err)
{
    *o = OUTPUT_NONE;
    char *path = file_join(dir, OUTPUT_LOCK_NAME), *text = holder_text();
    const bool ok = ((path != NULL && text != NULL) || err_no_memory(err, dir)) &&
                    file_make_directory(dir, err) && take(o, dir, path, text, err);
    free(path);
    free(text);
    if (!ok)
        output_unlock(o);
    return ok;
}

/* Whether the exclusive file is the one that this run has put there. */
static bool has_exclusive(const struct output *o)
{
    struct stat held, there;
    if (stat(o->exclusive, &there) != 0)
        return errno != ENOENT;
    return fstat(o->held, &held) == 0 && held.st_ino == there.st_ino && held.st_dev == there.st_dev;
}

void output_unlock(struct output *o)
{
    if (o->exclusive != NULL && has_exclusive(o))
        unlink(o->exclusive);
    free(o->exclusive);
    if (o->held >= 0)
        close(o->held);
    if (o->lock >= 0)
        close(o->lock);
    *o = OUTPUT_NONE;
}

/* ---- while it runs ---- */

/* What has become of the lock's file. */
enum lock_fate { LOCK_HELD, LOCK_REMOVED, LOCK_MOVED };

static enum lock_fate lock_fate(const struct output *o, const char *dir, const char *path)
{
    struct stat held, there;
    const bool found = stat(path, &there) == 0;
    if (fstat(o->lock, &held) != 0 || (!found && errno != ENOENT))
        return LOCK_HELD; /* nothing is known: not a reason to end a run */
    const bool same = found && held.st_ino == there.st_ino && held.st_dev == there.st_dev;
    if (same && (o->exclusive == NULL || has_exclusive(o)))
        return LOCK_HELD;
    /* The file is somewhere: its folder went with it. */
    return (!same && held.st_nlink > 0) || !file_is_directory(dir) ? LOCK_MOVED : LOCK_REMOVED;
}

bool output_check(struct output *o, const char *dir, struct err *err)
{
    char *path = file_join(dir, OUTPUT_LOCK_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    const enum lock_fate fate = lock_fate(o, dir, path);
    free(path);
    if (fate == LOCK_HELD)
        return true;
    if (fate == LOCK_MOVED)
        return err_set(err, ERR_IO,
                       "%s: was moved or removed while the run was going; nothing more is written. "
                       "--resume goes on from the last checkpoint in it",
                       dir);
    struct output again = OUTPUT_NONE;
    if (o->exclusive != NULL && has_exclusive(o))
        unlink(o->exclusive); /* it would be in our own way */
    if (!output_lock(&again, dir, err))
        return err_prefix(err, "%s was removed while the run was going", OUTPUT_LOCK_NAME);
    free(o->exclusive);
    if (o->held >= 0)
        close(o->held);
    close(o->lock);
    *o = again;
    return true;
}

/* "NAME.tmp.PID", as file_writer calls a file until it is whole. */
static bool is_temporary_of(const char *name, const char *of)
{
    static const char middle[] = ".tmp.";
    const size_t n = strlen(of), m = sizeof middle - 1;
    if (strncmp(name, of, n) != 0 || strncmp(name + n, middle, m) != 0)
        return false;
    const char *digits = name + n + m;
    return *digits != '\0' && digits[strspn(digits, "0123456789")] == '\0';
}

static bool clear_folder(const char *folder, struct err *err)
{
    static const char *const ours[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME, "recipe.yaml",
                                        OUTPUT_FACTS_NAME };
    DIR *d = opendir(folder);
    if (d == NULL)
        return errno == ENOENT || errno == ENOTDIR ||
               err_set(err, file_error(ERR_NO_INPUT), "%s: cannot be read: %s", folder,
                       strerror(errno));
    bool ok = true;
    const char *name;
    while (ok && (name = file_next_name(d, folder, &ok, err)) != NULL) {
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
            if (is_temporary_of(name, ours[i]))
                (void)unlinkat(dirfd(d), name, 0); /* it harms nobody */
        }
    }
    closedir(d);
    return ok;
}

bool output_clear_temporaries(const char *dir, struct err *err)
{
    char *best = file_join(dir, "best");
    const bool ok =
        best != NULL ? clear_folder(dir, err) && clear_folder(best, err) : err_no_memory(err, dir);
    free(best);
    return ok;
}

/* ---- facts ---- */

bool output_write_facts(const char *dir, json_t *facts, struct err *err)
{
    char *path = file_join(dir, OUTPUT_FACTS_NAME);
    char *text = json_to_text(facts, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    const bool ok = ((path != NULL && text != NULL) || err_no_memory(err, dir)) &&
                    file_write(path, text, strlen(text), err);
    json_decref(facts);
    free(path);
    free(text);
    return ok;
}
