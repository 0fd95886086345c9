#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/core/text.h"

void fuzz_fail(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

bool fuzz_run(fuzz_reader *reader, const uint8_t *bytes, size_t n, struct err *err)
{
    *err = (struct err){ 0 };
    const bool ok = reader(bytes, n, err);
    if (ok) {
        FUZZ_CHECK(err->code == ERR_NONE);
    } else {
        FUZZ_CHECK(err->code == ERR_DATA || err->code == ERR_RECIPE || err->code == ERR_NO_INPUT ||
                   err->code == ERR_USAGE);
        FUZZ_CHECK(err->text[0] != '\0' && strlen(err->text) < ERR_TEXT_SIZE);
    }
    return ok;
}

void fuzz_touch(const void *bytes, size_t n)
{
    const volatile uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        (void)p[i];
}

struct fuzz_pair fuzz_split(const uint8_t *bytes, size_t n)
{
    const uint8_t *zero = n > 0 ? memchr(bytes, 0, n) : NULL;
    if (zero == NULL)
        return (struct fuzz_pair){ .first = bytes, .n_first = n };
    const size_t n_first = (size_t)(zero - bytes);
    return (struct fuzz_pair){
        .first = bytes, .second = zero + 1, .n_first = n_first, .n_second = n - n_first - 1
    };
}

/* ---- time and memory ---- */

double fuzz_seconds(void)
{
    struct timespec now = { 0 };
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define IS_SANITIZED true
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define IS_SANITIZED true
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED false
#endif

bool fuzz_is_sanitized(void)
{
    return IS_SANITIZED;
}

/* Of the address space; RLIM_INFINITY: as much as there may be. */
static void set_limit(rlim_t bytes)
{
    struct rlimit limit;
    FUZZ_CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    FUZZ_CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

void fuzz_limit_memory(size_t bytes)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    FUZZ_CHECK(f != NULL && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    if (!fuzz_is_sanitized())
        set_limit((rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + bytes);
}

void fuzz_unlimit_memory(void)
{
    set_limit(RLIM_INFINITY);
}

/* ---- files ---- */

enum { MOST_FOLDERS = 32 };
static char root[FUZZ_PATH_SIZE / 2];
static char *folders[MOST_FOLDERS]; /* root/<name> */

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        unlinkat(dirfd(dir), e->d_name, 0); /* fails for "." and "..", which is as it should be */
    if (dir != NULL)
        closedir(dir);
    rmdir(path);
}

static void remove_all(void)
{
    for (int i = 0; i < MOST_FOLDERS && folders[i] != NULL; i++) {
        remove_folder(folders[i]);
        free(folders[i]);
    }
    rmdir(root);
}

static void make_root(void)
{
    const char *tmp = getenv("TMPDIR");
    if (tmp == NULL || *tmp == '\0')
        tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    FUZZ_CHECK(strlen(tmp) < sizeof root - 32);
    snprintf(root, sizeof root, "%s/jambatune-fuzz-XXXXXX", tmp);
    FUZZ_CHECK(mkdtemp(root) != NULL);
    FUZZ_CHECK(atexit(remove_all) == 0);
}

const char *fuzz_folder(const char *name)
{
    if (root[0] == '\0')
        make_root();
    for (int i = 0; i < MOST_FOLDERS; i++) {
        if (folders[i] == NULL) {
            folders[i] = text_format("%s/%s", root, name);
            FUZZ_CHECK(folders[i] != NULL && mkdir(folders[i], 0777) == 0);
        }
        if (strcmp(folders[i] + strlen(root) + 1, name) == 0)
            return folders[i];
    }
    fuzz_fail("there is room for another folder", __FILE__, __LINE__);
}

void fuzz_write(const char *folder, const char *name, const void *bytes, size_t n,
                char path[FUZZ_PATH_SIZE])
{
    snprintf(path, FUZZ_PATH_SIZE, "%s/%s", fuzz_folder(folder), name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    FUZZ_CHECK(fd >= 0);
    FUZZ_CHECK(n == 0 || write(fd, bytes, n) == (ssize_t)n);
    FUZZ_CHECK(close(fd) == 0);
}
