#include "datasets/source.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/gzip.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

enum { BUFFER_SIZE = 1 << 18 };

enum layout { LAYOUT_LINES, LAYOUT_LIST };

struct source {
    char **files;
    int64_t n_file;
    int64_t file; /* the one being read */

    struct gzip_reader in;
    enum layout layout;
    char *data; /* bytes begin..end are read but not used yet */
    size_t begin, end, cap;
    bool at_end;       /* the file has no more bytes than these */
    bool after_comma;  /* in a list: an element must follow */
    int64_t number;    /* of the last record: line from 1, element from 0 */
    int64_t n_record;  /* of this file */
    int64_t n_skipped; /* blank lines since the last record */
    int64_t n_blank;
    char *place;
    size_t place_size;
};

/* ---- which files ---- */

struct foreign {
    const char *suffix, *what, *remedy;
};

static const struct foreign foreign_kinds[] = {
    { ".csv", "CSV",
      "python -c \"import pandas; pandas.read_csv('IN').to_json('OUT.jsonl', "
      "orient='records', lines=True)\"" },
    { ".tsv", "TSV",
      "python -c \"import pandas; pandas.read_csv('IN', sep='\\t').to_json('OUT.jsonl', "
      "orient='records', lines=True)\"" },
    { ".parquet", "Parquet",
      "python -c \"import pandas; pandas.read_parquet('IN').to_json('OUT.jsonl', "
      "orient='records', lines=True)\"" },
    { ".arrow", "Arrow",
      "python -c \"import datasets; datasets.Dataset.from_file('IN')"
      ".to_json('OUT.jsonl')\"" },
    { ".txt", "plain text", "jq -cR '{text: .}' IN > OUT.jsonl (each line becomes a document)" },
    { ".zst", "Zstandard", "zstd -dc IN | gzip > OUT.gz" },
    { ".xz", "xz", "xz -dc IN | gzip > OUT.gz" },
    { ".bz2", "bzip2", "bzip2 -dc IN | gzip > OUT.gz" },
    { ".zip", "a zip archive", "unzip IN" },
    { ".tar", "a tar archive", "tar -xf IN" },
};

/* What a name says it is, when that is nothing we read; ".csv.gz" counts as ".csv". */
static const struct foreign *foreign_kind(const char *name)
{
    const size_t n = strlen(name), bare = text_ends_with(name, ".gz") ? n - 3 : n;
    for (size_t i = 0; i < sizeof foreign_kinds / sizeof foreign_kinds[0]; i++) {
        const size_t k = strlen(foreign_kinds[i].suffix);
        if (bare >= k && memcmp(name + bare - k, foreign_kinds[i].suffix, k) == 0)
            return &foreign_kinds[i];
    }
    return NULL;
}

static bool refuse_foreign(const char *path, const struct foreign *kind, struct err *err)
{
    return err_set(err, ERR_DATA,
                   "%s: is %s; expected JSONL or a JSON list, plain or .gz; convert it: %s", path,
                   kind->what, kind->remedy);
}

static bool is_ours(const char *name)
{
    static const char *const suffixes[] = { ".jsonl", ".json", ".jsonl.gz", ".json.gz" };
    if (name[0] == '.') /* hidden */
        return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        if (text_ends_with(name, suffixes[i]))
            return true;
    }
    return false;
}

/* Takes over `path`, which may be NULL (out of memory). */
static bool add_file(struct source *s, char *path, struct err *err)
{
    char **files = path == NULL ? NULL : realloc(s->files, ((size_t)s->n_file + 1) * sizeof *files);
    if (files == NULL) {
        free(path);
        return err_no_memory(err, "the list of data files");
    }
    s->files = files;
    s->files[s->n_file++] = path;
    return true;
}

static bool add_entry(struct source *s, const char *folder, const char *name, struct err *err)
{
    if (is_ours(name))
        return add_file(s, file_join(folder, name), err);
    const struct foreign *kind = name[0] == '.' ? NULL : foreign_kind(name);
    /* A text file beside the data is a licence or a readme; a table is data that would go missing.
     */
    if (kind == NULL || strcmp(kind->suffix, ".txt") == 0)
        return true;
    char *path = file_join(folder, name);
    if (path == NULL)
        return err_no_memory(err, "the list of data files");
    refuse_foreign(path, kind, err);
    free(path);
    return false;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool list_folder(struct source *s, const char *folder, struct err *err)
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        return err_set(err, file_error(ERR_NO_INPUT), "%s: %s", folder, strerror(errno));
    bool ok = true;
    const char *name;
    while (ok && (name = file_next_name(dir, folder, &ok, err)) != NULL)
        ok = add_entry(s, folder, name, err);
    closedir(dir);
    if (ok && s->n_file == 0)
        ok = err_set(err, ERR_NO_INPUT,
                     "%s: has no data; expected *.jsonl or *.json files, plain or .gz", folder);
    if (ok)
        qsort(s->files, (size_t)s->n_file, sizeof *s->files, compare_names);
    return ok;
}

static bool list_files(struct source *s, const char *path, struct err *err)
{
    if (file_is_directory(path))
        return list_folder(s, path, err);
    const struct foreign *kind = foreign_kind(path);
    if (kind != NULL)
        return refuse_foreign(path, kind, err);
    if (!file_exists(path))
        return err_set(
            err, ERR_NO_INPUT,
            "%s: no such file or folder; expected a JSONL or JSON file, or a folder of them "
            "(a data set of the hub must be downloaded first)",
            path);
    return add_file(s, text_copy(path), err);
}

struct source *source_open(const char *path, struct err *err)
{
    struct source *s = calloc(1, sizeof *s);
    if (s == NULL || (s->data = malloc(BUFFER_SIZE)) == NULL) {
        err_no_memory(err, path);
        source_close(s);
        return NULL;
    }
    s->cap = BUFFER_SIZE;
    bool ok = list_files(s, path, err);
    for (int64_t i = 0; ok && i < s->n_file; i++) {
        const size_t n = strlen(s->files[i]) + 32;
        s->place_size = n > s->place_size ? n : s->place_size;
    }
    s->place = ok ? calloc(1, s->place_size) : NULL;
    if (ok && s->place == NULL)
        ok = err_no_memory(err, path);
    if (ok)
        return s;
    source_close(s);
    return NULL;
}

void source_close(struct source *s)
{
    if (s == NULL)
        return;
    gzip_close(&s->in);
    for (int64_t i = 0; i < s->n_file; i++)
        free(s->files[i]);
    free(s->files);
    free(s->data);
    free(s->place);
    free(s);
}

/* ---- the buffer ---- */

static void set_place(struct source *s, int64_t number)
{
    s->number = number;
    snprintf(s->place, s->place_size, s->layout == LAYOUT_LIST ? "%s[%" PRId64 "]" : "%s:%" PRId64,
             s->files[s->file], number);
}

/* The number the next record has, or the one being looked for. */
static int64_t next_number(const struct source *s)
{
    return s->number + 1;
}

/* More bytes behind those of an unfinished record, which moves to the front. */
static bool fill(struct source *s, struct err *err)
{
    if (s->begin > 0) {
        memmove(s->data, s->data + s->begin, s->end - s->begin);
        s->end -= s->begin;
        s->begin = 0;
    }
    if (s->end == s->cap) {
        if (s->cap >= SOURCE_RECORD_MAX) {
            set_place(s, next_number(s));
            return err_set(err, ERR_DATA, "%s: is longer than %d MiB; expected one record%s",
                           s->place, SOURCE_RECORD_MAX >> 20,
                           s->layout == LAYOUT_LIST ? " (is a quote or a bracket left open?)"
                                                    : " a line");
        }
        char *data = realloc(s->data, 2 * s->cap);
        if (data == NULL)
            return err_no_memory(err, s->files[s->file]);
        s->data = data;
        s->cap *= 2;
    }
    const size_t room = s->cap - s->end;
    size_t got = 0;
    if (!gzip_read(&s->in, s->data + s->end, room, &got, err))
        return false;
    s->end += got;
    s->at_end = got < room;
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_blank(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_space(bytes[i]))
            return false;
    }
    return true;
}

/* ---- the next file ---- */

/* Names what a file really is when its first bytes give it away. */
static bool check_signature(const struct source *s, struct err *err)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *what;
    } signatures[] = {
        { "\x1F\x8B", 2, "gzip data; end its name in .gz" },
        { "PAR1", 4, "Parquet; convert it to JSONL" },
        { "ARROW1", 6, "Arrow; convert it to JSONL" },
        { "\xFF\xFE", 2, "UTF-16; convert it to UTF-8" },
        { "\xFE\xFF", 2, "UTF-16; convert it to UTF-8" },
    };
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        if (s->end >= signatures[i].n && memcmp(s->data, signatures[i].bytes, signatures[i].n) == 0)
            return err_set(err, ERR_DATA, "%s: is %s", s->files[s->file], signatures[i].what);
    }
    return true;
}

static bool open_file(struct source *s, struct err *err)
{
    if (!gzip_open(&s->in, s->files[s->file], err))
        return false;
    s->begin = s->end = 0;
    s->at_end = s->after_comma = false;
    s->n_record = s->n_skipped = 0;
    if (!fill(s, err) || !check_signature(s, err))
        return false;
    if (s->end >= 3 && memcmp(s->data, "\xEF\xBB\xBF", 3) == 0)
        s->begin = 3;

    size_t first = s->begin;
    while (first < s->end && is_space(s->data[first]))
        first++;
    s->layout = first < s->end && s->data[first] == '[' ? LAYOUT_LIST : LAYOUT_LINES;
    if (s->layout == LAYOUT_LIST)
        s->begin = first + 1;
    s->number = s->layout == LAYOUT_LIST ? -1 : 0;
    return true;
}

static bool close_file(struct source *s, struct err *err)
{
    if (s->n_record == 0)
        return err_set(err, ERR_DATA, "%s: has no records", s->files[s->file]);
    gzip_close(&s->in);
    s->file++;
    return true;
}

/* ---- records ---- */

struct span {
    const char *bytes; /* into the buffer, until the next fill */
    size_t n;
};

static enum source_result next_line(struct source *s, struct span *out, struct err *err)
{
    for (;;) {
        const char *start = s->data + s->begin;
        const size_t n = s->end - s->begin;
        const char *newline = n > 0 ? memchr(start, '\n', n) : NULL;
        if (newline == NULL && !s->at_end) {
            if (!fill(s, err))
                return SOURCE_ERROR;
            continue;
        }
        if (n == 0)
            return SOURCE_END;
        const size_t len = newline != NULL ? (size_t)(newline - start) : n;
        s->begin += newline != NULL ? len + 1 : len;
        if (!is_blank(start, len)) {
            set_place(s, next_number(s));
            *out = (struct span){ start, len };
            return SOURCE_RECORD;
        }
        s->number++;
        s->n_skipped++;
    }
}

/* Up to the next byte that is not space; false with *at_end at the end of the file, or on an error.
 */
static bool skip_space(struct source *s, bool *at_end, struct err *err)
{
    *at_end = false;
    for (;;) {
        while (s->begin < s->end && is_space(s->data[s->begin]))
            s->begin++;
        if (s->begin < s->end)
            return true;
        if (s->at_end) {
            *at_end = true;
            return false;
        }
        if (!fill(s, err))
            return false;
    }
}

/* Length of the element at bytes[0..n): up to the comma or bracket that ends it; n when neither is
 * there. Only strings and depth are looked at: whether it is JSON is for the parser to say. */
static size_t element_length(const char *bytes, size_t n)
{
    int64_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        const char c = bytes[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (depth == 0 && (c == ',' || c == ']'))
            return i;
        if (c == '"')
            in_string = true;
        else if (c == '[' || c == '{')
            depth++;
        else if ((c == ']' || c == '}') && depth > 0)
            depth--;
    }
    return n;
}

/* Behind the list's closing bracket. */
static enum source_result end_list(struct source *s, struct err *err)
{
    const char *path = s->files[s->file];
    if (s->after_comma) {
        err_set(err, ERR_DATA, "%s: has a comma after its last element [%" PRId64 "]", path,
                s->number);
        return SOURCE_ERROR;
    }
    s->begin++;
    bool at_end = false;
    if (skip_space(s, &at_end, err))
        err_set(err, ERR_DATA, "%s: has text after the end of its list", path);
    return at_end ? SOURCE_END : SOURCE_ERROR;
}

static enum source_result next_element(struct source *s, struct span *out, struct err *err)
{
    bool at_end = false;
    size_t len = 0;
    if (skip_space(s, &at_end, err)) {
        if (s->data[s->begin] == ']')
            return end_list(s, err);
        while (len = element_length(s->data + s->begin, s->end - s->begin),
               s->begin + len == s->end && !s->at_end) {
            if (!fill(s, err))
                return SOURCE_ERROR;
        }
        at_end = s->begin + len == s->end;
    } else if (!at_end) {
        return SOURCE_ERROR;
    }
    if (at_end) {
        err_set(err, ERR_DATA, "%s: ends inside its list, after %" PRId64 " whole records",
                s->files[s->file], s->n_record);
        return SOURCE_ERROR;
    }
    set_place(s, next_number(s));
    *out = (struct span){ s->data + s->begin, len };
    s->begin += len;
    s->after_comma = s->data[s->begin] == ',';
    if (s->after_comma)
        s->begin++;
    if (len == 0) {
        err_set(err, ERR_DATA, "%s: nothing stands before the comma; expected an object", s->place);
        return SOURCE_ERROR;
    }
    return SOURCE_RECORD;
}

static json_t *parse(struct source *s, const struct span *span, struct err *err)
{
    /* jansson's lexer loses one that it had to put back. */
    const char *zero = memchr(span->bytes, '\0', span->n);
    if (zero != NULL) {
        err_set(err, ERR_DATA, "%s: not valid JSON: has a zero byte at column %td", s->place,
                zero - span->bytes + 1);
        return NULL;
    }
    json_t *value = json_parse(span->bytes, span->n, s->place, err);
    if (value == NULL) {
        /* One object over several lines, say: the first line is where that shows. */
        if (s->layout == LAYOUT_LINES && s->n_record == 0 && err != NULL && err->code == ERR_DATA)
            err_set(err, ERR_DATA, "%s; expected one object a line (JSONL), or one list of objects",
                    err->text);
        return NULL;
    }
    if (!json_is_object(value)) {
        err_set(err, ERR_DATA, "%s: is %s; expected an object with named fields", s->place,
                json_type_name(value));
        json_decref(value);
        return NULL;
    }
    return value;
}

enum source_result source_next(struct source *s, json_t **record, struct err *err)
{
    *record = NULL;
    for (;;) {
        if (!s->in.is_open) {
            if (s->file == s->n_file)
                return SOURCE_END;
            if (!open_file(s, err))
                return SOURCE_ERROR;
        }
        struct span span = { 0 };
        const enum source_result result =
            s->layout == LAYOUT_LIST ? next_element(s, &span, err) : next_line(s, &span, err);
        if (result == SOURCE_ERROR)
            return SOURCE_ERROR;
        if (result == SOURCE_END) {
            if (!close_file(s, err))
                return SOURCE_ERROR;
            continue;
        }
        *record = parse(s, &span, err);
        if (*record == NULL)
            return SOURCE_ERROR;
        s->n_record++;
        s->n_blank += s->n_skipped;
        s->n_skipped = 0;
        return SOURCE_RECORD;
    }
}

const char *source_place(const struct source *s)
{
    return s->place;
}

int64_t source_file(const struct source *s)
{
    return s->file;
}

const char *source_file_path(const struct source *s, int64_t file)
{
    return s->files[file];
}

int64_t source_n_file(const struct source *s)
{
    return s->n_file;
}

int64_t source_number(const struct source *s)
{
    return s->number;
}

bool source_is_list(const struct source *s)
{
    return s->layout == LAYOUT_LIST;
}

int64_t source_n_blank(const struct source *s)
{
    return s->n_blank;
}
