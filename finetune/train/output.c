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

/* Whether the process that an exclusive file names is gone: only this machine since its last start
 * can tell. */
static bool is_gone(const char *path)
{
    char *text = NULL, host[OUTPUT_HOST_SIZE], boot[64];
    size_t n = 0;
    json_t *holder =
        file_read(path, LOCK_LIMIT, &text, &n, NULL) ? json_parse(text, n, path, NULL) : NULL;
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
    free(text);
    return gone;
}

/* The file of a run that is gone is removed by one process at a time: of two that saw the same dead
 * one, the second must not remove what the first has put in its place. */
static bool take_over(const char *path, int *fd, struct err *err)
{
    char *turn = text_format("%s.takeover", path);
    if (turn == NULL)
        return err_no_memory(err, path);
    const int mine = open(turn, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (mine >= 0) {
        if (is_gone(path) && unlink(path) == 0)
            *fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        close(mine);
        unlink(turn);
    }
    free(turn);
    return true;
}

static bool lock_exclusive(struct output *o, const char *dir, const char *text, struct err *err)
{
    char *path = text_format("%s/%s.exclusive", dir, OUTPUT_LOCK_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    const int why = errno;
    bool ok = fd >= 0;
    if (!ok && why != EEXIST)
        err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", path, strerror(why));
    else if (!ok && (!is_gone(path) || take_over(path, &fd, err)) && fd < 0) {
        struct err in_use = { 0 };
        refuse(dir, path, &in_use);
        err_set(err, ERR_CANT_CREATE,
                "%s. Locks do not work there: if that run is dead, remove %s and %s.takeover",
                in_use.text, path, path);
    }
    if (fd >= 0) {
        ok = write_all(fd, path, text, err);
        close(fd);
    }
    if (ok)
        o->exclusive = path;
    else
        free(path);
    return ok;
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

void output_unlock(struct output *o)
{
    if (o->exclusive != NULL)
        unlink(o->exclusive);
    free(o->exclusive);
    if (o->lock >= 0)
        close(o->lock);
    *o = OUTPUT_NONE;
}

/* ---- while it runs ---- */

/* Whether the lock's file is the one that is held. */
static bool has_lock(const struct output *o, const char *path)
{
    struct stat held, there;
    if (o->exclusive != NULL && access(o->exclusive, F_OK) != 0 && errno == ENOENT)
        return false;
    if (fstat(o->lock, &held) != 0 || (stat(path, &there) != 0 && errno != ENOENT))
        return true; /* nothing is known: not a reason to end a run */
    return stat(path, &there) == 0 && held.st_ino == there.st_ino && held.st_dev == there.st_dev;
}

bool output_check(struct output *o, const char *dir, struct err *err)
{
    char *path = file_join(dir, OUTPUT_LOCK_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    bool ok = has_lock(o, path);
    free(path);
    if (ok)
        return true;
    struct output again = OUTPUT_NONE;
    if (o->exclusive != NULL)
        unlink(o->exclusive); /* ours, or not there */
    ok = output_lock(&again, dir, err);
    if (!ok)
        return err_prefix(err, "%s was removed while the run was going", OUTPUT_LOCK_NAME);
    free(o->exclusive);
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
