/* A scratch folder for tests of readers: made under TMPDIR, removed with what is in it. */
#ifndef TESTS_UNIT_DATASETS_SCRATCH_H
#define TESTS_UNIT_DATASETS_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct scratch {
    char folder[256];
    char path[600]; /* of the last file written */
};

static inline int scratch_open(struct scratch *s)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(s->folder, sizeof s->folder, "%s/jambatune-test-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(s->folder) != NULL ? 0 : -1;
}

static inline const char *scratch_path(struct scratch *s, const char *name)
{
    snprintf(s->path, sizeof s->path, "%s/%s", s->folder, name);
    return s->path;
}

/* Writes a file and returns its path; NULL when that fails. */
static inline const char *scratch_write(struct scratch *s, const char *name, const void *data,
                                        size_t n)
{
    FILE *f = fopen(scratch_path(s, name), "wb");
    if (f == NULL)
        return NULL;
    const size_t put = fwrite(data, 1, n, f);
    return fclose(f) == 0 && put == n ? s->path : NULL;
}

static inline const char *scratch_write_text(struct scratch *s, const char *name, const char *text)
{
    return scratch_write(s, name, text, strlen(text));
}

static inline void scratch_close(struct scratch *s)
{
    DIR *dir = opendir(s->folder);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove(scratch_path(s, e->d_name));
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(s->folder);
}

/* Whether a message ends with `expected` behind the scratch folder's name and a slash. */
static inline int scratch_message_is(const struct scratch *s, const char *message,
                                     const char *expected)
{
    const size_t n = strlen(s->folder);
    const int same = strncmp(message, s->folder, n) == 0 && message[n] == '/' &&
                     strcmp(message + n + 1, expected) == 0;
    if (!same)
        fprintf(stderr, "message:  %s\nexpected: %s/%s\n", message, s->folder, expected);
    return same;
}

#endif
