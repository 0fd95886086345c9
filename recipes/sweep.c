/* A run's name has the swept keys in alphabetical order, under their own names and with the values
 * as they were written: the same sweep finds its folders again, whatever the order of the words. A
 * value that no folder should be called by is cut and cleaned, and told from others by eight digits
 * of its SHA-256.
 */
#include "recipes/sweep.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/sha256.h"
#include "kernels/core/text.h"
#include "recipes/schema.h"

/* One list: key=value[0],value[1],... */
struct axis {
    const char *argument;
    size_t n_key; /* bytes of the key as written */
    char *name;   /* the key's own name */
    char **value;
    int64_t n, cap;
    int place; /* among the overrides */
};

/* ---- words ---- */

/* The value's end: a comma outside brackets and quotes, or the end of the text. */
static const char *value_end(const char *s)
{
    int depth = 0;
    char quote = '\0', before = ',';
    for (; *s != '\0'; before = *s++) {
        if (quote != '\0') {
            if (quote == '"' && *s == '\\' && s[1] != '\0')
                s++;
            else if (*s == quote)
                quote = '\0';
        } else if (*s == ',' && depth == 0) {
            return s;
        } else if ((*s == '"' || *s == '\'') && strchr(" ,[{:", before) != NULL) {
            quote = *s; /* one inside a word is a character like another */
        } else if (*s == '[' || *s == '{') {
            depth++;
        } else if ((*s == ']' || *s == '}') && depth > 0) {
            depth--;
        }
    }
    return s;
}

static bool is_list(const char *argument)
{
    const char *equals = strchr(argument, '=');
    return argument[0] != '~' && equals != NULL && *value_end(equals + 1) == ',';
}

/* "lr" and "lr.x" are "learning_rate" and "learning_rate.x"; NULL when memory is out. */
static char *own_name(const char *key, size_t n)
{
    const struct field_alias *alias = NULL;
    char *name = text_copy_n(key, n);
    if (name == NULL)
        return NULL;
    const size_t head = strcspn(name, ".");
    const char end = name[head];
    name[head] = '\0';
    const struct field *field = schema_find(&recipe_schema, name, &alias);
    name[head] = end;
    if (field == NULL || alias == NULL)
        return name;
    char *own = text_format("%s%s", field->name, name + head);
    free(name);
    return own;
}

static bool add_value(struct axis *axis, const char *from, const char *to, struct err *err)
{
    while (from < to && *from == ' ')
        from++;
    while (to > from && to[-1] == ' ')
        to--;
    if (from == to)
        return err_set(err, ERR_USAGE,
                       "command line: %.200s: has an empty value between commas; expected "
                       "key=a,b,c",
                       axis->argument);
    for (int64_t i = 0; i < axis->n; i++) {
        if (strlen(axis->value[i]) == (size_t)(to - from) &&
            strncmp(axis->value[i], from, (size_t)(to - from)) == 0)
            return err_set(err, ERR_USAGE, "command line: %.200s: '%.60s' is there twice; keep one",
                           axis->argument, axis->value[i]);
    }
    if (axis->n == SWEEP_MAX_RUNS)
        return err_set(err, ERR_USAGE, "command line: %.200s: has more than %d values",
                       axis->argument, SWEEP_MAX_RUNS);
    if (axis->n == axis->cap) {
        const int64_t cap = 2 * axis->cap + 4;
        char **more = realloc(axis->value, (size_t)cap * sizeof *more);
        if (more == NULL)
            return err_no_memory(err, axis->argument);
        axis->value = more;
        axis->cap = cap;
    }
    axis->value[axis->n] = text_copy_n(from, (size_t)(to - from));
    if (axis->value[axis->n] == NULL)
        return err_no_memory(err, axis->argument);
    axis->n++;
    return true;
}

static bool read_axis(struct axis *axis, const char *argument, int place, struct err *err)
{
    const char *at = strchr(argument, '=');
    axis->argument = argument;
    axis->place = place;
    axis->n_key = (size_t)(at - argument);
    axis->name = own_name(argument, axis->n_key);
    if (axis->name == NULL)
        return err_no_memory(err, argument);
    if (strcmp(axis->name, "output_dir") == 0)
        return err_set(err, ERR_USAGE,
                       "command line: %.200s: 'output_dir' is one folder for the whole sweep; each "
                       "run has its own in it",
                       argument);
    do {
        const char *end = value_end(++at);
        if (!add_value(axis, at, end, err))
            return false;
        at = end;
    } while (*at == ',');
    return true;
}

/* A key that has a list must not be set again: which would count? */
static bool check_alone(const struct axis *axis, const char *const *overrides, int n,
                        struct err *err)
{
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        const char *word = overrides[i] + (overrides[i][0] == '~');
        char *name = own_name(word, strcspn(word, "="));
        if (name == NULL)
            return err_no_memory(err, axis->argument);
        if (i != axis->place && strcmp(name, axis->name) == 0)
            ok = err_set(err, ERR_USAGE,
                         "command line: %.200s: '%s' has a list of values already; keep one",
                         overrides[i > axis->place ? i : axis->place], axis->name);
        free(name);
    }
    return ok;
}

/* ---- names ---- */

enum { MAX_VALUE = 48, MAX_NAME = 200, N_DIGIT = 8 };

/* Appends at most `room` bytes of s, cleaned; then, when that is not s itself, "~" and digits. */
static void put_clean(const char *s, size_t room, struct text *out)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    const size_t n = strlen(s);
    bool same = n <= room;
    for (size_t i = 0; i < n && i < room; i++) {
        const bool keep = strchr(plain, s[i]) != NULL;
        text_append(out, keep ? &s[i] : "_", 1);
        same = same && keep;
    }
    if (same)
        return;
    char hex[SHA256_HEX_SIZE];
    sha256_of(s, n, hex);
    text_printf(out, "~%.*s", (int)N_DIGIT, hex);
}

/* axes in the order of their names; values: one for each. NULL when memory is out. */
static char *make_name(const struct axis *const *axes, int n, char *const *values)
{
    struct text name = { 0 }, whole = { 0 };
    for (int i = 0; i < n; i++) {
        text_printf(&name, "%s%s=", i > 0 ? "," : "", axes[i]->name);
        put_clean(values[i], MAX_VALUE, &name);
        text_printf(&whole, "%s%s=%s", i > 0 ? "," : "", axes[i]->name, values[i]);
    }
    if (!name.failed && !whole.failed && name.len > MAX_NAME) {
        char hex[SHA256_HEX_SIZE];
        sha256_of(whole.data, whole.len, hex);
        name.len = MAX_NAME - 1 - N_DIGIT;
        text_printf(&name, "~%.*s", (int)N_DIGIT, hex);
    }
    if (name.failed || whole.failed)
        text_free(&name);
    text_free(&whole);
    return name.data;
}

/* ---- the product ---- */

struct product {
    struct axis *axes; /* as written */
    const struct axis **sorted;
    int n;
};

static int compare_axes(const void *a, const void *b)
{
    return strcmp((*(const struct axis *const *)a)->name, (*(const struct axis *const *)b)->name);
}

static bool read_product(struct product *p, const char *const *overrides, int n, struct err *err)
{
    p->axes = calloc((size_t)n + 1, sizeof *p->axes);
    p->sorted = calloc((size_t)n + 1, sizeof *p->sorted);
    if (p->axes == NULL || p->sorted == NULL)
        return err_no_memory(err, "the sweep");
    for (int i = 0; i < n; i++) {
        if (!is_list(overrides[i]))
            continue;
        struct axis *axis = &p->axes[p->n];
        p->sorted[p->n++] = axis;
        if (!read_axis(axis, overrides[i], i, err) || !check_alone(axis, overrides, n, err))
            return false;
    }
    if (p->n == 0)
        return err_set(err, ERR_USAGE,
                       "command line: --each: no key has several values; expected at least one "
                       "key=a,b,c");
    qsort(p->sorted, (size_t)p->n, sizeof *p->sorted, compare_axes);
    return true;
}

static void free_product(struct product *p)
{
    for (int i = 0; i < p->n; i++) {
        for (int64_t k = 0; k < p->axes[i].n; k++)
            free(p->axes[i].value[k]);
        free(p->axes[i].value);
        free(p->axes[i].name);
    }
    free(p->axes);
    free(p->sorted);
}

/* The value of an axis in run i. */
static const char *value_of(const struct product *p, const struct axis *axis, int64_t i)
{
    for (int k = p->n - 1; &p->axes[k] != axis; k--)
        i /= p->axes[k].n;
    return axis->value[i % axis->n];
}

static bool make_run(const struct product *p, int64_t i, const char *const *overrides, int n,
                     struct sweep_run *run)
{
    run->overrides = calloc((size_t)n + 1, sizeof *run->overrides);
    run->values = calloc((size_t)p->n, sizeof *run->values);
    bool ok = run->overrides != NULL && run->values != NULL;
    for (int k = 0; ok && k < p->n; k++) {
        const struct axis *axis = p->sorted[k];
        const char *value = value_of(p, axis, i);
        char *word = text_format("%.*s=%s", (int)axis->n_key, axis->argument, value);
        run->overrides[axis->place] = word;
        run->values[k] = text_copy(value);
        ok = word != NULL && run->values[k] != NULL;
    }
    for (int k = 0; ok && k < n; k++) {
        if (run->overrides[k] == NULL)
            run->overrides[k] = text_copy(overrides[k]);
        ok = run->overrides[k] != NULL;
    }
    run->name = ok ? make_name(p->sorted, p->n, run->values) : NULL;
    return run->name != NULL;
}

static bool make_keys(const struct product *p, struct sweep *sweep)
{
    sweep->keys = calloc((size_t)p->n, sizeof *sweep->keys);
    if (sweep->keys == NULL)
        return false;
    for (int i = 0; i < p->n; i++) {
        sweep->keys[i] = text_copy(p->sorted[i]->name);
        if (sweep->keys[i] == NULL)
            return false;
        sweep->n_key++;
    }
    return true;
}

bool sweep_open(struct sweep *sweep, const char *const *overrides, int n_override, struct err *err)
{
    struct product p = { 0 };
    *sweep = (struct sweep){ .n_override = n_override };
    bool ok = read_product(&p, overrides, n_override, err);
    int64_t n = 1;
    for (int i = 0; ok && i < p.n; i++) {
        n *= p.axes[i].n; /* at most SWEEP_MAX_RUNS each, and so is n before */
        if (n > SWEEP_MAX_RUNS)
            ok = err_set(err, ERR_USAGE,
                         "command line: --each: more than %d runs; expected fewer "
                         "values",
                         SWEEP_MAX_RUNS);
    }
    if (ok) {
        sweep->runs = calloc((size_t)n, sizeof *sweep->runs);
        ok = sweep->runs != NULL && make_keys(&p, sweep);
        while (ok && sweep->n_run < n) {
            ok = make_run(&p, sweep->n_run, overrides, n_override, &sweep->runs[sweep->n_run]);
            sweep->n_run++;
        }
        ok = ok || err_no_memory(err, "the sweep");
    }
    free_product(&p);
    if (!ok)
        sweep_close(sweep);
    return ok;
}

void sweep_close(struct sweep *sweep)
{
    for (int64_t i = 0; i < sweep->n_run; i++) {
        struct sweep_run *run = &sweep->runs[i];
        for (int k = 0; run->overrides != NULL && k < sweep->n_override; k++)
            free(run->overrides[k]);
        for (int k = 0; run->values != NULL && k < sweep->n_key; k++)
            free(run->values[k]);
        free(run->overrides);
        free(run->values);
        free(run->name);
    }
    free(sweep->runs);
    for (int i = 0; i < sweep->n_key; i++)
        free(sweep->keys[i]);
    free(sweep->keys);
    *sweep = (struct sweep){ 0 };
}
