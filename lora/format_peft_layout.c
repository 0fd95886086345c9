/* Finding the tensors of each module in adapter_model.safetensors: names first, then fused experts'
 * shapes. */
#include "lora/format_peft_layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "lora/format_peft.h"

/* ---- names ---- */

/* "base_model.model.lm_head.lora_A.weight", taken apart. */
struct parsed {
    char path[PEFT_NAME_SIZE];
    enum peft_part part;
    bool embedding; /* lora_embedding_A or _B */
};

static const char *skip_wrappers(const char *name)
{
    static const char *const wrappers[] = { PEFT_PREFIX, "module.", "_orig_mod.",
                                            "_fsdp_wrapped_module." };
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++) {
        if (text_starts_with(name, wrappers[i]))
            return skip_wrappers(name + strlen(wrappers[i]));
    }
    return name;
}

static void remove_all(char *s, const char *what)
{
    const size_t n = strlen(what);
    for (char *at = strstr(s, what); at != NULL; at = strstr(at, what))
        memmove(at, at + n, strlen(at + n) + 1);
}

/* What may follow ".lora_A": ".weight", or an adapter's name before it. An embedding's matrices
 * have no ".weight". */
static bool is_ending(const char *s, bool embedding)
{
    const char *dot = *s == '.' ? strchr(s + 1, '.') : NULL;
    if (embedding)
        return *s == '\0' || (*s == '.' && s[1] != '\0' && dot == NULL);
    return strcmp(s, ".weight") == 0 || (dot != NULL && strcmp(dot, ".weight") == 0);
}

/* False: no LoRA tensor's name. */
static bool parse(const char *name, struct parsed *out)
{
    static const struct {
        const char *mark;
        enum peft_part part;
        bool embedding;
    } marks[] = { { ".lora_A", PEFT_A, false },
                  { ".lora_B", PEFT_B, false },
                  { ".lora_embedding_A", PEFT_A, true },
                  { ".lora_embedding_B", PEFT_B, true } };
    const char *path = skip_wrappers(name);
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        const char *at = strstr(path, marks[i].mark);
        if (at == NULL || !is_ending(at + strlen(marks[i].mark), marks[i].embedding) ||
            (size_t)(at - path) >= sizeof out->path)
            continue;
        *out = (struct parsed){ .part = marks[i].part, .embedding = marks[i].embedding };
        memcpy(out->path, path, (size_t)(at - path));
        remove_all(out->path, "._checkpoint_wrapped_module");
        remove_all(out->path, "._fsdp_wrapped_module");
        remove_all(out->path, "._orig_mod");
        return true;
    }
    return false;
}

/* ---- modules by path ---- */

/* Shell sort: the list is long and nearly in order, and qsort takes no context. */
static void sort_by_path(struct peft_layout *l)
{
    for (int64_t i = 0; i < l->n_module; i++)
        l->by_path[i] = i;
    for (int64_t gap = l->n_module / 2; gap > 0; gap /= 2) {
        for (int64_t i = gap; i < l->n_module; i++) {
            const int64_t x = l->by_path[i];
            int64_t at = i;
            for (;
                 at >= gap && strcmp(l->modules[l->by_path[at - gap]].path, l->modules[x].path) > 0;
                 at -= gap)
                l->by_path[at] = l->by_path[at - gap];
            l->by_path[at] = x;
        }
    }
}

static int64_t find(const struct peft_layout *l, const char *path)
{
    for (int64_t low = 0, high = l->n_module; low < high;) {
        const int64_t middle = low + (high - low) / 2;
        const int order = strcmp(path, l->modules[l->by_path[middle]].path);
        if (order == 0)
            return l->by_path[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

/* The first Jamba's code says moe.experts.3, and experts.0 for a dense layer's MLP; a model without
 * its head has no "model." before its layers. */
static int64_t find_module(const struct peft_layout *l, const char *path)
{
    const int64_t exact = find(l, path);
    if (exact >= 0)
        return exact;
    char today[2 * PEFT_NAME_SIZE];
    const char *moe = strstr(path, ".moe.");
    const bool headless =
        text_starts_with(path, "layers.") || text_starts_with(path, "embed_tokens");
    snprintf(today, sizeof today, "%s%.*s%s%s", headless ? "model." : "",
             moe != NULL ? (int)(moe - path) : (int)strlen(path), path,
             moe != NULL ? ".feed_forward." : "", moe != NULL ? moe + strlen(".moe.") : "");
    const int64_t renamed = find(l, today);
    if (renamed >= 0)
        return renamed;
    char *dense = strstr(today, ".experts.0.");
    if (dense == NULL)
        return -1;
    memmove(dense, dense + strlen(".experts.0"), strlen(dense + strlen(".experts.0")) + 1);
    return find(l, today);
}

/* ---- fused experts ---- */

/* The pairs of a layer's experts, until their shapes have told what they are: [0] under
 * "experts.base_layer.", [1] under "experts.". */
struct fused_layer {
    const struct safetensors_tensor *a[2], *b[2];
};

/* The layer's first expert's gate_proj, and which pair; -1: no path of fused experts. */
static int64_t find_fused(const struct peft_layout *l, const char *path, int *level)
{
    static const char *const ends[] = { ".experts.base_layer", ".experts" };
    for (*level = 0; *level < 2; ++*level) {
        char first[2 * PEFT_NAME_SIZE];
        if (!text_ends_with(path, ends[*level]))
            continue;
        snprintf(first, sizeof first, "%.*s.experts.0.gate_proj",
                 (int)(strlen(path) - strlen(ends[*level])), path);
        const int64_t module = find_module(l, first);
        return module >= 0 && l->modules[module].expert == 0 ? module : -1;
    }
    return -1;
}

void peft_fused_path(const struct lora_module *module, char out[PEFT_NAME_SIZE])
{
    snprintf(out, PEFT_NAME_SIZE, "model.layers.%" PRId64 ".feed_forward.experts.%s", module->layer,
             module->kind == LORA_DOWN_PROJ ? "down_proj" : "gate_up_proj");
}

/* ---- messages ---- */

static const char *nearest_module(const struct peft_layout *l, const char *path)
{
    const char **paths = calloc((size_t)l->n_module + 1, sizeof *paths);
    int at = -1;
    if (paths != NULL) {
        for (int64_t i = 0; i < l->n_module; i++)
            paths[i] = l->modules[i].path;
        at = text_nearest(path, paths, (int)l->n_module);
    }
    free(paths);
    return at < 0 ? NULL : l->modules[at].path;
}

/* A tensor that is no A or B of a module of this model: says what it is, as well as can be told. */
static bool refuse_tensor(const struct peft_layout *l, const char *name, struct err *err)
{
    struct parsed p;
    if (strstr(name, "lora_magnitude_vector") != NULL)
        return err_set(
            err, ERR_DATA,
            "%s: tensor '%s': DoRA is not supported; merge that adapter into the base first",
            l->path, name);
    if (!parse(name, &p))
        return err_set(err, ERR_DATA,
                       "%s: tensor '%s': is no LoRA tensor; expected '%s', a module's path and "
                       "'.lora_A.weight' or '.lora_B.weight'",
                       l->path, name, PEFT_PREFIX);
    const char *near = nearest_module(l, p.path);
    return err_set(err, ERR_DATA, "%s: tensor '%s': this model has no such module%s%s%s", l->path,
                   name, near != NULL ? "; the nearest is '" : "", near != NULL ? near : "",
                   near != NULL ? "'" : "");
}

static bool refuse_twice(const struct peft_layout *l, const char *first, const char *second,
                         struct err *err)
{
    return err_set(
        err, ERR_DATA,
        "%s: tensor '%s': '%s' is the same matrix; expected one of them (two adapters in "
        "one file are not read)",
        l->path, second, first);
}

/* ---- the scan ---- */

static void note_name(struct peft_layout *l, const char *name, const char *expected)
{
    const bool same = strcmp(name, expected) == 0;
    l->has_renamed |= !same;
    l->has_foreign |= !same && strcmp(name, expected + strlen(PEFT_PREFIX)) != 0;
}

static bool put(const struct peft_layout *l, const struct safetensors_tensor **slot,
                const struct safetensors_tensor *t, struct err *err)
{
    if (*slot != NULL)
        return refuse_twice(l, (*slot)->name, t->name, err);
    *slot = t;
    return true;
}

static bool put_module(struct peft_layout *l, int64_t module, const struct parsed *p,
                       const struct safetensors_tensor *t, struct err *err)
{
    struct peft_pair *pair = &l->pairs[module];
    const bool embedding = l->modules[module].kind == LORA_EMBED_TOKENS;
    char expected[PEFT_NAME_SIZE];
    if (p->embedding && !embedding)
        return refuse_tensor(l, t->name, err);
    peft_tensor_name(&l->modules[module], p->part, expected);
    if (embedding && !p->embedding) /* its matrix as a parameter: PEFT's name, and nobody else's */
        snprintf(expected, sizeof expected, PEFT_PREFIX "%s.lora_%c.weight",
                 l->modules[module].path, p->part == PEFT_A ? 'A' : 'B');
    note_name(l, t->name, expected);
    pair->n_expert = 1;
    pair->swapped = embedding && !p->embedding;
    l->has_foreign |= pair->swapped;
    return put(l, p->part == PEFT_A ? &pair->a : &pair->b, t, err);
}

static bool put_fused(struct peft_layout *l, struct fused_layer *layers, const struct parsed *p,
                      const struct safetensors_tensor *t, struct err *err)
{
    int level;
    const int64_t first = p->embedding ? -1 : find_fused(l, p->path, &level);
    if (first < 0)
        return refuse_tensor(l, t->name, err);
    char expected[2 * PEFT_NAME_SIZE];
    snprintf(expected, sizeof expected,
             PEFT_PREFIX "model.layers.%" PRId64 ".feed_forward.experts%s.lora_%c.weight",
             l->modules[first].layer, level == 0 ? ".base_layer" : "",
             p->part == PEFT_A ? 'A' : 'B');
    note_name(l, t->name, expected);
    l->has_fused = true;
    return put(l, p->part == PEFT_A ? &layers[first].a[level] : &layers[first].b[level], t, err);
}

static bool scan(struct peft_layout *l, struct fused_layer *layers, struct err *err)
{
    for (int64_t i = 0; i < l->st.n_tensor; i++) {
        const struct safetensors_tensor *t = &l->st.tensors[i];
        struct parsed p;
        if (text_ends_with(t->name, ".base_layer.weight"))
            continue;
        if (!parse(t->name, &p))
            return refuse_tensor(l, t->name, err);
        const int64_t module = find_module(l, p.path);
        if (!(module >= 0 ? put_module(l, module, &p, t, err) : put_fused(l, layers, &p, t, err)))
            return false;
    }
    return true;
}

/* ---- what fused pairs are ---- */

/* Shapes of a layer's fused pairs: A (expert * r, cols) and B (rows, r * expert). */
struct fused_shape {
    bool gate_up, down; /* fits it as (expert, out, in) */
    bool swapped_gate_up, swapped_down;
};

static struct fused_shape shape_of(const struct lora_module *first,
                                   const struct safetensors_tensor *a,
                                   const struct safetensors_tensor *b)
{
    const int64_t d_model = first->in, d_ff = first->out;
    if (a->n_dim != 2 || b->n_dim != 2 || a->dims[0] < 1 || a->dims[0] % first->n_expert != 0 ||
        a->dims[0] / first->n_expert > LORA_MAX_RANK || b->dims[1] != a->dims[0])
        return (struct fused_shape){ 0 };
    const int64_t cols = a->dims[1], rows = b->dims[0];
    return (struct fused_shape){
        .gate_up = cols == d_model && rows == 2 * d_ff,
        .down = cols == d_ff && rows == d_model,
        .swapped_gate_up = cols == 2 * d_ff && rows == d_model,
        .swapped_down = cols == d_model && rows == d_ff,
    };
}

static bool refuse_shapes(const struct peft_layout *l, const struct lora_module *first,
                          const struct safetensors_tensor *a, const struct safetensors_tensor *b,
                          struct err *err)
{
    char shape_a[64], shape_b[64];
    safetensors_shape_text(shape_a, a->dims, a->n_dim);
    safetensors_shape_text(shape_b, b->dims, b->n_dim);
    return err_set(
        err, ERR_DATA,
        "%s: tensor '%s': its shape %s and %s of its B are no fused experts'; expected, "
        "for %" PRId64 " experts of rank r, (%" PRId64 " r, %" PRId64 ") and (%" PRId64 ", %" PRId64
        " r), or (%" PRId64 " r, %" PRId64 ") and (%" PRId64 ", %" PRId64 " r)",
        l->path, a->name, shape_a, shape_b, first->n_expert, first->n_expert, first->in,
        2 * first->out, first->n_expert, first->n_expert, first->out, first->in, first->n_expert);
}

static bool share_out(struct peft_layout *l, int64_t first, const struct peft_pair *whole,
                      bool down, struct err *err)
{
    const struct lora_module *gate = &l->modules[first];
    for (int64_t i = first; i < l->n_module && l->modules[i].layer == gate->layer; i++) {
        const struct lora_module *m = &l->modules[i];
        struct peft_pair *pair = &l->pairs[i];
        if (m->expert < 0 || (m->kind == LORA_DOWN_PROJ) != down)
            continue;
        if (pair->a != NULL || pair->b != NULL)
            return refuse_twice(l, (pair->a != NULL ? pair->a : pair->b)->name, whole->a->name,
                                err);
        *pair = *whole;
        pair->expert = m->expert;
        pair->row = m->kind == LORA_UP_PROJ ? gate->out : 0;
    }
    return true;
}

static bool resolve_pair(struct peft_layout *l, int64_t first, const struct safetensors_tensor *a,
                         const struct safetensors_tensor *b, bool prefer_swapped, struct err *err)
{
    const struct lora_module *gate = &l->modules[first];
    if (a == NULL && b == NULL)
        return true;
    if (a == NULL || b == NULL)
        return err_set(err, ERR_DATA, "%s: tensor '%s': the %c that goes with it is missing",
                       l->path, (a != NULL ? a : b)->name, a == NULL ? 'A' : 'B');
    const struct fused_shape s = shape_of(gate, a, b);
    const bool straight = s.gate_up || s.down, swapped = s.swapped_gate_up || s.swapped_down;
    if (!straight && !swapped)
        return refuse_shapes(l, gate, a, b, err);
    /* Where a matrix is square both fit, and only the writer's version can tell. */
    const struct peft_pair whole = { .a = a,
                                     .b = b,
                                     .n_expert = gate->n_expert,
                                     .swapped = swapped && (!straight || prefer_swapped),
                                     .is_fused = true };
    return share_out(l, first, &whole, whole.swapped ? s.swapped_down : s.down, err);
}

static bool resolve_fused(struct peft_layout *l, const char *dir, const struct fused_layer *layers,
                          struct err *err)
{
    struct peft_parameters parameters;
    if (!l->has_fused)
        return true;
    if (!peft_read_parameters(dir, &parameters, err))
        return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < l->n_module; i++) {
        for (int level = 0; ok && level < 2; level++)
            ok =
                resolve_pair(l, i, layers[i].a[level], layers[i].b[level], parameters.swapped, err);
    }
    peft_parameters_free(&parameters);
    return ok;
}

/* ---- opening ---- */

static bool open_file(struct peft_layout *l, const char *dir, struct err *err)
{
    l->path = file_join(dir, PEFT_TENSORS_NAME);
    if (l->path == NULL)
        return err_no_memory(err, dir);
    char *pickle = file_join(dir, "adapter_model.bin");
    const bool only_pickle = pickle != NULL && !file_exists(l->path) && file_exists(pickle);
    free(pickle);
    if (only_pickle)
        return err_set(
            err, ERR_NO_INPUT,
            "%s: is missing; adapter_model.bin beside it is a pickle, which is not read: load the "
            "adapter with peft and save it again",
            l->path);
    return safetensors_open(l->path, &l->st, err);
}

bool peft_layout_open(struct peft_layout *l, const char *dir, const struct lora_module *modules,
                      int64_t n, struct err *err)
{
    *l = (struct peft_layout){ .modules = modules, .n_module = n };
    l->pairs = calloc((size_t)n + 1, sizeof *l->pairs);
    l->by_path = calloc((size_t)n + 1, sizeof *l->by_path);
    struct fused_layer *layers = calloc((size_t)n + 1, sizeof *layers);
    bool ok = (l->pairs != NULL && l->by_path != NULL && layers != NULL) || err_no_memory(err, dir);
    if (ok)
        sort_by_path(l);
    ok = ok && open_file(l, dir, err) && scan(l, layers, err) && resolve_fused(l, dir, layers, err);
    free(layers);
    if (!ok)
        peft_layout_close(l);
    return ok;
}

void peft_layout_close(struct peft_layout *l)
{
    safetensors_close(&l->st);
    free(l->path);
    free(l->pairs);
    free(l->by_path);
    *l = (struct peft_layout){ 0 };
}

/* ---- a pair ---- */

static bool missing(const struct peft_layout *l, int64_t module, struct err *err)
{
    const struct peft_pair *pair = &l->pairs[module];
    const struct safetensors_tensor *other = pair->a != NULL ? pair->a : pair->b;
    char name[PEFT_NAME_SIZE];
    peft_tensor_name(&l->modules[module], pair->a == NULL ? PEFT_A : PEFT_B, name);
    return err_set(err, ERR_DATA, "%s: tensor '%s' is missing%s%s%s", l->path, name,
                   other != NULL ? "; '" : "", other != NULL ? other->name : "",
                   other != NULL ? "' is there" : "");
}

static bool check_shape(const struct peft_layout *l, const struct safetensors_tensor *t,
                        int64_t rows, int64_t cols, struct err *err)
{
    char shape[64];
    if (t->n_dim == 2 && t->dims[0] == rows && t->dims[1] == cols)
        return true;
    safetensors_shape_text(shape, t->dims, t->n_dim);
    return err_set(err, ERR_DATA, "%s: tensor '%s': shape %s, expected (%" PRId64 ", %" PRId64 ")",
                   l->path, t->name, shape, rows, cols);
}

bool peft_pair_check(const struct peft_layout *l, int64_t module, struct err *err)
{
    const struct peft_pair *pair = &l->pairs[module];
    const struct lora_module *m = &l->modules[module];
    if (pair->a == NULL || pair->b == NULL)
        return missing(l, module, err);
    if (pair->is_fused)
        return true; /* the shapes are what said that it is this module's */
    const int64_t rows = pair->a->n_dim > 0 ? pair->a->dims[0] : 0;
    if (rows > LORA_MAX_RANK)
        return err_set(err, ERR_DATA, "%s: tensor '%s': has rank %" PRId64 "; expected at most %d",
                       l->path, pair->a->name, rows, LORA_MAX_RANK);
    const int64_t rank = rows > 0 ? rows : 1;
    return check_shape(l, pair->a, rank, pair->swapped ? m->out : m->in, err) &&
           check_shape(l, pair->b, pair->swapped ? m->in : m->out, rank, err);
}

int64_t peft_pair_rank(const struct peft_pair *pair)
{
    return pair->a->dims[0] / pair->n_expert;
}

static real element(const struct safetensors_tensor *t, int64_t row, int64_t col)
{
    real x;
    const size_t at = (size_t)(row * t->dims[1] + col) * dtype_size(t->dtype);
    dtype_to_real(t->dtype, (const char *)t->data + at, 1, &x);
    return x;
}

void peft_pair_read(const struct peft_pair *pair, const struct lora_module *module,
                    enum peft_part part, real *out)
{
    const struct safetensors_tensor *a = pair->a, *b = pair->b;
    const int64_t r = peft_pair_rank(pair);
    const int64_t rows = part == PEFT_A ? r : module->out, cols = part == PEFT_A ? module->in : r;
    if (!pair->is_fused && !pair->swapped) {
        const struct safetensors_tensor *t = part == PEFT_A ? a : b;
        dtype_to_real(t->dtype, t->data, rows * cols, out);
        return;
    }
    /* A's row (expert, k), B's column (k, expert). */
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            const int64_t k = part == PEFT_A ? i : j, at_a = pair->expert * r + k,
                          at_b = k * pair->n_expert + pair->expert;
            const int64_t in = part == PEFT_A ? j : 0, o = part == PEFT_A ? 0 : pair->row + i;
            const bool from_a = (part == PEFT_A) != pair->swapped;
            out[i * cols + j] = from_a ? element(a, at_a, pair->swapped ? o : in)
                                       : element(b, pair->swapped ? in : o, at_b);
        }
    }
}
