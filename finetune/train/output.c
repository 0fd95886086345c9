#include "finetune/train/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

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
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file == NULL || fscanf(file, "%63s", out) != 1)
        snprintf(out, 64, "?");
    if (file != NULL)
        fclose(file);
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
    char *text = holder == NULL ? NULL : json_dumps(holder, JSON_COMPACT);
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

static bool lock_exclusive(struct output *o, const char *dir, const char *text, struct err *err)
{
    char *path = text_format("%s/%s.exclusive", dir, OUTPUT_LOCK_NAME);
    if (path == NULL)
        return err_no_memory(err, dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST && is_gone(path) && unlink(path) == 0)
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool ok = fd >= 0;
    if (!ok && errno == EEXIST) {
        struct err in_use = { 0 };
        refuse(dir, path, &in_use);
        err_set(err, ERR_CANT_CREATE, "%s. Locks do not work there: if that run is dead, remove %s",
                in_use.text, path);
    } else if (!ok) {
        err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", path, strerror(errno));
    } else {
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

/* ---- facts ---- */

bool output_write_facts(const char *dir, json_t *facts, struct err *err)
{
    char *path = file_join(dir, OUTPUT_FACTS_NAME);
    char *text = facts == NULL ? NULL : json_dumps(facts, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    const bool ok = ((path != NULL && text != NULL) || err_no_memory(err, dir)) &&
                    file_write(path, text, strlen(text), err);
    json_decref(facts);
    free(path);
    free(text);
    return ok;
}
