#include "kernels/cuda/gemm_table.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"

enum { FIRST_CAP = 256, MAX_FILE_BYTES = 1 << 24, EXACT_ROWS = 16 };

/* ---- shapes ---- */

static int32_t alignment_of(const void *p)
{
    const uintptr_t at = (uintptr_t)p;
    int32_t align = 256;
    while (at % (uintptr_t)align != 0)
        align /= 2;
    return align < 256 && align > 16 ? 16 : align; /* no kernel asks for what is between */
}

struct gemm_shape gemm_shape_of(const struct gemm_args *a, enum dtype act)
{
    return (struct gemm_shape){ .m = a->m,
                                .n = a->n,
                                .k = a->k,
                                .lda = a->lda,
                                .ldb = a->ldb,
                                .ldc = a->ldc,
                                .trans_a = a->trans_a,
                                .trans_b = a->trans_b,
                                .bf16 = act == DTYPE_BF16,
                                .c_bf16 = act == DTYPE_BF16 && !a->c_real,
                                .accumulate = a->beta != 0,
                                .align_a = alignment_of(a->a),
                                .align_b = alignment_of(a->b),
                                .align_c = alignment_of(a->c) };
}

static int64_t rounded_up(int64_t n)
{
    int64_t step = 1;
    if (n <= EXACT_ROWS)
        return n;
    while (step * EXACT_ROWS < n)
        step *= 2;
    return (n + step - 1) / step * step;
}

struct gemm_shape gemm_shape_rounded(const struct gemm_shape *shape)
{
    struct gemm_shape s = *shape;
    if (!s.trans_a)
        s.m = rounded_up(s.m);
    else if (!s.trans_b)
        s.k = rounded_up(s.k);
    return s;
}

enum { N_NUMBER = 9, N_FLAG = 5, N_WORD = 8 };

static void numbers_of(const struct gemm_shape *s, int64_t out[N_NUMBER])
{
    const int64_t numbers[N_NUMBER] = { s->m,   s->n,       s->k,       s->lda,    s->ldb,
                                        s->ldc, s->align_a, s->align_b, s->align_c };
    memcpy(out, numbers, sizeof numbers);
}

static int flags_of(const struct gemm_shape *s)
{
    return s->trans_a | s->trans_b << 1 | s->bf16 << 2 | s->c_bf16 << 3 | s->accumulate << 4;
}

static int compare_shapes(const struct gemm_shape *x, const struct gemm_shape *y)
{
    int64_t a[N_NUMBER], b[N_NUMBER];
    numbers_of(x, a);
    numbers_of(y, b);
    if (flags_of(x) != flags_of(y))
        return flags_of(x) < flags_of(y) ? -1 : 1;
    for (int i = 0; i < N_NUMBER; i++) {
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

bool gemm_shape_equal(const struct gemm_shape *x, const struct gemm_shape *y)
{
    return compare_shapes(x, y) == 0;
}

int64_t gemm_shape_n_a(const struct gemm_shape *s)
{
    return (s->trans_a ? s->k : s->m) * s->lda;
}

int64_t gemm_shape_n_b(const struct gemm_shape *s)
{
    return (s->trans_b ? s->n : s->k) * s->ldb;
}

int64_t gemm_shape_n_c(const struct gemm_shape *s)
{
    return s->m * s->ldc;
}

/* ---- the table ---- */

static struct gemm_entry *place_of(struct gemm_entry *entries, int64_t cap,
                                   const struct gemm_shape *s)
{
    int64_t numbers[N_NUMBER];
    numbers_of(s, numbers);
    uint64_t hash = (uint64_t)flags_of(s);
    for (int i = 0; i < N_NUMBER; i++) {
        hash = (hash ^ (uint64_t)numbers[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    for (uint64_t at = hash;; at++) {
        struct gemm_entry *e = &entries[at % (uint64_t)cap];
        if (e->shape.n == 0 || gemm_shape_equal(&e->shape, s))
            return e;
    }
}

struct gemm_entry *gemm_table_find(const struct gemm_table *t, const struct gemm_shape *shape)
{
    struct gemm_entry *e = t->cap > 0 ? place_of(t->entries, t->cap, shape) : NULL;
    return e != NULL && e->shape.n != 0 ? e : NULL;
}

/* At most half full. */
static bool grow(struct gemm_table *t)
{
    const int64_t cap = t->cap > 0 ? 2 * t->cap : FIRST_CAP;
    struct gemm_entry *entries = calloc((size_t)cap, sizeof *entries);
    if (entries == NULL)
        return false;
    for (int64_t i = 0; i < t->cap; i++) {
        if (t->entries[i].shape.n != 0)
            *place_of(entries, cap, &t->entries[i].shape) = t->entries[i];
    }
    free(t->entries);
    t->entries = entries;
    t->cap = cap;
    return true;
}

struct gemm_entry *gemm_table_add(struct gemm_table *t, const struct gemm_shape *shape)
{
    assert(shape->n > 0);
    if (2 * (t->n + 1) > t->cap && !grow(t))
        return NULL;
    struct gemm_entry *e = place_of(t->entries, t->cap, shape);
    t->n += e->shape.n == 0;
    *e = (struct gemm_entry){ .shape = *shape };
    return e;
}

void gemm_table_free(struct gemm_table *t)
{
    free(t->entries);
    *t = (struct gemm_table){ 0 };
}

/* ---- the file ----
 *
 * A head that says where its algorithms are valid, a line per shape (flags, then the numbers in the
 * order of numbers_of, then the algorithm), and their count at the end, so that a file cut short is
 * seen. */

static void put_head(const struct gemm_machine *m, struct text *out)
{
    text_printf(out,
                "jambatune GEMM algorithms 1\n"
                "device %s\n"
                "capability %d.%d, %d multiprocessors\n"
                "cublaslt %zu\n"
                "# flags m n k lda ldb ldc, alignments of a b c, algorithm\n",
                m->device, m->major, m->minor, m->n_sm, m->cublaslt);
}

static int compare_entries(const void *x, const void *y)
{
    const struct gemm_entry *const *a = x, *const *b = y;
    return compare_shapes(&(*a)->shape, &(*b)->shape);
}

static void put_entry(const struct gemm_entry *e, struct text *out)
{
    int64_t numbers[N_NUMBER];
    const int flags = flags_of(&e->shape);
    numbers_of(&e->shape, numbers);
    for (int i = 0; i < N_FLAG; i++)
        text_puts(out, flags >> i & 1 ? "1" : "0");
    for (int i = 0; i < N_NUMBER; i++)
        text_printf(out, " %" PRId64, numbers[i]);
    for (int i = 0; i < N_WORD; i++)
        text_printf(out, " %" PRIx64, e->algorithm.words[i]);
    text_puts(out, "\n");
}

bool gemm_table_write(const struct gemm_table *t, const struct gemm_machine *machine,
                      const char *path, struct err *err)
{
    const struct gemm_entry **sorted = calloc((size_t)t->n + 1, sizeof *sorted);
    struct text out = { 0 };
    int64_t n = 0;
    if (sorted == NULL)
        return err_no_memory(err, path);
    for (int64_t i = 0; i < t->cap; i++) {
        if (t->entries[i].shape.n != 0)
            sorted[n++] = &t->entries[i];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, compare_entries);
    put_head(machine, &out);
    for (int64_t i = 0; i < n; i++)
        put_entry(sorted[i], &out);
    text_printf(&out, "end %" PRId64 "\n", n);
    const bool ok =
        out.failed ? err_no_memory(err, path) : file_write(path, out.data, out.len, err);
    text_free(&out);
    free(sorted);
    return ok;
}

static bool is_alignment(int64_t align)
{
    return align == 2 || align == 4 || align == 8 || align == 16 || align == 256;
}

/* Whether a product can have this shape, so that nothing later meets a size of nonsense. */
static bool shape_is_sound(const struct gemm_shape *s)
{
    return s->m > 0 && s->n > 0 && s->k > 0 && s->lda >= (s->trans_a ? s->m : s->k) &&
           s->ldb >= (s->trans_b ? s->k : s->n) && s->ldc >= s->n && (s->bf16 || !s->c_bf16) &&
           is_alignment(s->align_a) && is_alignment(s->align_b) && is_alignment(s->align_c);
}

/* The number at *at, after one space; at most ten digits in base 10, sixteen in base 16. */
static bool take_number(const char **at, int base, uint64_t *out)
{
    const char *digits = base == 10 ? "0123456789" : "0123456789abcdef";
    if (**at != ' ')
        return false;
    const size_t n = strspn(*at + 1, digits);
    if (n < 1 || n > (base == 10 ? 10u : 16u))
        return false;
    *out = strtoull(*at + 1, NULL, base);
    *at += 1 + n;
    return true;
}

static bool parse_entry(const char *line, struct gemm_entry *e)
{
    uint64_t numbers[N_NUMBER];
    bool ok = strspn(line, "01") == N_FLAG, flags[N_FLAG] = { false };
    for (int i = 0; i < N_FLAG && ok; i++)
        flags[i] = line[i] == '1';
    const char *at = line + N_FLAG;
    for (int i = 0; i < N_NUMBER && ok; i++)
        ok = take_number(&at, 10, &numbers[i]);
    for (int i = 0; i < N_WORD && ok; i++)
        ok = take_number(&at, 16, &e->algorithm.words[i]);
    if (!ok || *at != '\0')
        return false;
    e->shape = (struct gemm_shape){ .m = (int64_t)numbers[0],
                                    .n = (int64_t)numbers[1],
                                    .k = (int64_t)numbers[2],
                                    .lda = (int64_t)numbers[3],
                                    .ldb = (int64_t)numbers[4],
                                    .ldc = (int64_t)numbers[5],
                                    .align_a = (int32_t)numbers[6],
                                    .align_b = (int32_t)numbers[7],
                                    .align_c = (int32_t)numbers[8],
                                    .trans_a = flags[0],
                                    .trans_b = flags[1],
                                    .bf16 = flags[2],
                                    .c_bf16 = flags[3],
                                    .accumulate = flags[4] };
    return numbers[6] <= 256 && numbers[7] <= 256 && numbers[8] <= 256 && shape_is_sound(&e->shape);
}

/* The lines after the head, to the "end" that counts them. */
static bool read_entries(struct gemm_table *t, char *line, const char *path, struct err *err)
{
    int64_t n = 0;
    for (char *rest = NULL; (line = strtok_r(line, "\n", &rest)) != NULL; line = NULL, n++) {
        struct gemm_entry read = { 0 };
        uint64_t count = 0;
        const char *at = line + 3;
        if (strncmp(line, "end", 3) == 0 && take_number(&at, 10, &count) && *at == '\0' &&
            (int64_t)count == n && *rest == '\0')
            return true;
        if (!parse_entry(line, &read))
            return err_set(err, ERR_DATA, "%s: line %" PRId64 " is no algorithm; tune again", path,
                           n + 6);
        struct gemm_entry *e = gemm_table_add(t, &read.shape);
        if (e == NULL)
            return err_no_memory(err, path);
        e->algorithm = read.algorithm;
    }
    return err_set(err, ERR_DATA, "%s: ends early, after %" PRId64 " algorithms; tune again", path,
                   n);
}

bool gemm_table_read(struct gemm_table *t, const struct gemm_machine *machine, const char *path,
                     struct err *err)
{
    char *bytes = NULL;
    size_t n = 0;
    struct text head = { 0 };
    if (!file_read(path, MAX_FILE_BYTES, &bytes, &n, err))
        return false;
    put_head(machine, &head);
    bool ok = false;
    if (head.failed)
        err_no_memory(err, path);
    else if (strlen(bytes) != n || n < head.len || memcmp(bytes, head.data, head.len) != 0)
        err_set(err, ERR_DATA,
                "%s: not for this device and version of cuBLASLt (%s, cublaslt %zu); tune again",
                path, machine->device, machine->cublaslt);
    else
        ok = read_entries(t, bytes + head.len, path, err);
    text_free(&head);
    free(bytes);
    return ok;
}
