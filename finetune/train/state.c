#include "finetune/train/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/json_memory.h"

enum { FORMAT = 1 };

struct train_counters train_counters_new(void)
{
    return (struct train_counters){ .evaluated = -1, .best_loss = (double)INFINITY };
}

/* ---- JSON ---- */

struct member {
    const char *name;
    size_t offset;
};

/* What a run cannot have counted is refused: sums of what is left never overflow. */
enum { COUNT_BITS = 53 };

struct count {
    const char *name;
    size_t offset;
    size_t most; /* of the member above that it cannot exceed; its own: 2^COUNT_BITS */
    int64_t least;
};

#define AT(member) offsetof(struct train_counters, member)

static const struct count integers[] = {
    { "step", AT(step), AT(step), 0 },
    { "applied_steps", AT(n_applied), AT(step), 0 },
    { "nonfinite_steps", AT(n_nonfinite), AT(step), 0 },
    { "tokens", AT(tokens), AT(tokens), 0 },
    { "trained_tokens", AT(trained_tokens), AT(tokens), 0 },
    { "evaluations", AT(n_eval), AT(n_eval), 0 },
    { "evaluated_step", AT(evaluated), AT(step), -1 },
    { "samples", AT(n_sampled), AT(n_sampled), 0 },
    { "best_step", AT(best_step), AT(step), 0 },
    { "evaluations_since_best", AT(n_worse), AT(n_eval), 0 },
    { "log_bytes", AT(log_bytes), AT(log_bytes), 0 },
};

static const struct member reals[] = {
    { "seconds", AT(seconds) },
    { "best_loss", AT(best_loss) },
    { "first_loss", AT(first_loss) },
    { "last_loss", AT(last_loss) },
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool put(json_t *object, const char *name, json_t *value)
{
    return json_object_set_new(object, name, value) == 0;
}

/* A double to the bit: hexadecimal, "inf", "nan". */
static json_t *exact(double x)
{
    char digits[64];
    snprintf(digits, sizeof digits, "%a", x);
    return json_string(digits);
}

json_t *state_to_json(const struct train_counters *c, const struct plan_shape *shape,
                      json_t *identity)
{
    json_t *state = json_object(), *counters = json_object(), *walk = json_object();
    bool ok = counters != NULL && walk != NULL;
    for (size_t i = 0; ok && i < COUNT(integers); i++)
        ok = put(
            counters, integers[i].name,
            json_integer(*(const int64_t *)(const void *)((const char *)c + integers[i].offset)));
    for (size_t i = 0; ok && i < COUNT(reals); i++)
        ok = put(counters, reals[i].name,
                 exact(*(const double *)(const void *)((const char *)c + reals[i].offset)));
    ok = ok && put(counters, "stopped_early", json_boolean(c->stopped_early)) &&
         put(counters, "best_digest", json_string(c->best_digest)) &&
         put(walk, "pass_tokens", json_integer(shape->pass_tokens)) &&
         put(walk, "chunk_tokens", json_integer(shape->chunk_tokens)) &&
         put(state, "format", json_integer(FORMAT)) &&
         json_object_set(state, "counters", counters) == 0 &&
         json_object_set(state, "walk", walk) == 0 &&
         put(state, "identity", json_deep_copy(identity)) &&
         !json_memory_failed(); /* the copy lacks what there was no room for, and says nothing */
    json_decref(counters);
    json_decref(walk);
    if (ok)
        return state;
    json_decref(state);
    return NULL;
}

static bool get_object(json_t *object, const char *key, json_t **out, const char *place,
                       struct err *err)
{
    *out = json_object_get(object, key);
    return json_is_object(*out) ||
           err_set(err, ERR_DATA, "%s: \"%s\" is %s; expected an object", place, key,
                   *out == NULL ? "missing" : json_type_name(*out));
}

static bool get_exact(json_t *object, const char *key, double *out, const char *place,
                      struct err *err)
{
    const char *text = NULL;
    char *end = NULL;
    if (!json_get_string(object, key, true, &text, place, err))
        return false;
    *out = strtod(text, &end);
    return (end != text && *end == '\0') ||
           err_set(err, ERR_DATA, "%s: \"%s\" is '%.40s'; expected a number", place, key, text);
}

static bool get_counts(json_t *counters, struct train_counters *c, const char *place,
                       struct err *err)
{
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(integers); i++) {
        const struct count *count = &integers[i];
        int64_t *to = (int64_t *)(void *)((char *)c + count->offset);
        const int64_t *most = (const int64_t *)(const void *)((const char *)c + count->most);
        const int64_t high = most == to ? (int64_t)1 << COUNT_BITS : *most;
        ok = json_get_int(counters, count->name, true, count->least, high, to, place, err);
    }
    return ok;
}

/* Losses may be what a run that diverged had; nothing is ever lower than a best loss of NaN. */
static bool get_reals(json_t *counters, struct train_counters *c, const char *place,
                      struct err *err)
{
    for (size_t i = 0; i < COUNT(reals); i++) {
        double *to = (double *)(void *)((char *)c + reals[i].offset);
        if (!get_exact(counters, reals[i].name, to, place, err))
            return false;
    }
    if (!isfinite(c->seconds) || c->seconds < 0)
        return err_set(err, ERR_DATA, "%s: \"seconds\" is %g; expected no less than 0", place,
                       c->seconds);
    return !isnan(c->best_loss) || err_set(err, ERR_DATA, "%s: \"best_loss\" is no number", place);
}

static bool get_digest(json_t *counters, char digest[SHA256_HEX_SIZE], const char *place,
                       struct err *err)
{
    const char *text = NULL;
    if (!json_get_string(counters, "best_digest", true, &text, place, err))
        return false;
    const size_t n = strlen(text);
    if ((n != 0 && n != SHA256_HEX_SIZE - 1) || strspn(text, "0123456789abcdef") != n)
        return err_set(err, ERR_DATA, "%s: \"best_digest\" is '%.80s'; expected a SHA-256", place,
                       text);
    memcpy(digest, text, n + 1);
    return true;
}

/* A chunk is a part of a pass. */
static bool get_shape(json_t *walk, struct plan_shape *shape, const char *place, struct err *err)
{
    return json_get_int(walk, "pass_tokens", true, 1, INT32_MAX, &shape->pass_tokens, place, err) &&
           json_get_int(walk, "chunk_tokens", true, 1, shape->pass_tokens, &shape->chunk_tokens,
                        place, err);
}

bool state_from_json(json_t *state, const char *place, struct train_counters *c,
                     struct plan_shape *shape, json_t **identity, struct err *err)
{
    json_t *counters = NULL, *walk = NULL;
    int64_t format = 0;
    *c = train_counters_new();
    if (!json_get_int(state, "format", true, 1, INT32_MAX, &format, place, err))
        return false;
    if (format != FORMAT)
        return err_set(err, ERR_DATA,
                       "%s: has format %" PRId64 "; expected %d: it was written by another version",
                       place, format, (int)FORMAT);
    if (!get_object(state, "counters", &counters, place, err) ||
        !get_object(state, "walk", &walk, place, err) ||
        !get_object(state, "identity", identity, place, err))
        return false;
    return get_counts(counters, c, place, err) && get_reals(counters, c, place, err) &&
           get_digest(counters, c->best_digest, place, err) &&
           json_get_bool(counters, "stopped_early", true, &c->stopped_early, place, err) &&
           get_shape(walk, shape, place, err);
}

/* ---- the file ---- */

enum { N_BLOCK = 3 };

static void tensors_of(const struct state_blocks *b, struct safetensors_tensor out[N_BLOCK])
{
    static const char *const names[N_BLOCK] = { "m", "params", "v" };
    const real *const data[N_BLOCK] = { b->m, b->params, b->v };
    for (int i = 0; i < N_BLOCK; i++)
        out[i] = (struct safetensors_tensor){ .name = names[i],
                                              .dtype = DTYPE_REAL,
                                              .n_dim = 1,
                                              .dims = { b->n_param },
                                              .data = data[i],
                                              .bytes = (size_t)b->n_param * sizeof(real) };
}

static const struct safetensors_tensor *find_block(const struct safetensors *st, const char *path,
                                                   const struct safetensors_tensor *want,
                                                   struct err *err)
{
    const struct safetensors_tensor *t = safetensors_find(st, want->name);
    char have[64] = "", expected[64];
    if (t != NULL && t->dtype == want->dtype && t->n_dim == 1 && t->dims[0] == want->dims[0])
        return t;
    safetensors_shape_text(expected, want->dims, 1);
    if (t != NULL)
        safetensors_shape_text(have, t->dims, t->n_dim);
    err_set(err, ERR_DATA, "%s: tensor '%s': is %s%s%s; expected %s %s", path, want->name,
            t == NULL ? "missing" : dtype_name(t->dtype), t == NULL ? "" : " ", have,
            dtype_name(want->dtype), expected);
    return NULL;
}

static bool read_back(const char *path, const struct safetensors_tensor tensors[N_BLOCK],
                      const char *text, struct err *err)
{
    struct safetensors st = { 0 };
    if (!safetensors_open(path, &st, err))
        return false;
    const char *again = safetensors_metadata(&st, "state");
    bool same = again != NULL && strcmp(again, text) == 0;
    for (int i = 0; same && i < N_BLOCK; i++) {
        const struct safetensors_tensor *t = find_block(&st, path, &tensors[i], NULL);
        same = t != NULL && memcmp(t->data, tensors[i].data, t->bytes) == 0;
    }
    safetensors_close(&st);
    return same ||
           err_set(err, ERR_IO, "%s: does not read back as written; is the disk sound?", path);
}

bool state_write(const char *dir, const struct state_blocks *blocks, json_t *state, struct err *err)
{
    char *path = file_join(dir, STATE_NAME), *text = json_to_text(state, JSON_COMPACT);
    struct safetensors_tensor tensors[N_BLOCK];
    tensors_of(blocks, tensors);
    bool ok = (path != NULL && text != NULL) || err_no_memory(err, dir);
    const struct safetensors_note note = { "state", text };
    ok = ok && safetensors_write_notes(path, tensors, N_BLOCK, &note, 1, err) &&
         read_back(path, tensors, text, err);
    free(path);
    free(text);
    return ok;
}

json_t *state_read_json(const char *dir, struct err *err)
{
    struct safetensors st = { 0 };
    json_t *state = NULL;
    char *path = file_join(dir, STATE_NAME);
    if (path == NULL) {
        err_no_memory(err, dir);
    } else if (safetensors_open(path, &st, err)) {
        const char *text = safetensors_metadata(&st, "state");
        if (text != NULL)
            state = json_parse(text, strlen(text), path, err);
        if (text == NULL || (state != NULL && !json_is_object(state))) {
            err_set(err, ERR_DATA, "%s: has no \"state\" in its metadata; expected an object",
                    path);
            json_decref(state);
            state = NULL;
        }
    }
    safetensors_close(&st);
    free(path);
    return state;
}

/* What is saved is finite (finetune/train/saver.c). */
static bool check_finite(const char *path, const struct safetensors_tensor *want, const real *x,
                         struct err *err)
{
    bool finite = true;
    for (int64_t i = 0; i < want->dims[0]; i++)
        finite &= isfinite(x[i]) != 0;
    return finite || err_set(err, ERR_DATA, "%s: tensor '%s': has values that are not finite", path,
                             want->name);
}

bool state_read_blocks(const char *dir, const struct state_blocks *blocks, struct err *err)
{
    struct safetensors st = { 0 };
    struct safetensors_tensor tensors[N_BLOCK];
    real *const to[N_BLOCK] = { blocks->m, blocks->params, blocks->v };
    tensors_of(blocks, tensors);
    char *path = file_join(dir, STATE_NAME);
    bool ok = (path != NULL || err_no_memory(err, dir)) && safetensors_open(path, &st, err);
    for (int i = 0; ok && i < N_BLOCK; i++) {
        const struct safetensors_tensor *t = find_block(&st, path, &tensors[i], err);
        ok = t != NULL;
        if (ok && t->bytes > 0)
            memcpy(to[i], t->data, t->bytes);
        ok = ok && check_finite(path, &tensors[i], to[i], err);
    }
    safetensors_close(&st);
    free(path);
    return ok;
}
