#include "tests/fault/disk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"
#include "tests/fault/shim_log.h"

enum { EXCHANGE = 2 /* RENAME_EXCHANGE */, MAX_OPEN = 1 << 16 };

struct node;

/* A name in a folder. */
struct entry {
    char *name;
    struct node *node;
};

struct entries {
    struct entry *at;
    size_t n;
};

/* A change that is not synced. Of a file: bytes at an offset, or a new length (data NULL). Of a
 * folder: a name made (from NULL), removed (to NULL), changed or, with `swap`, exchanged. */
struct change {
    int64_t offset;
    const char *data;
    size_t size;
    char *from, *to;
    struct node *node;
    bool swap;
};

struct node {
    struct node *next; /* of all */
    bool is_folder;
    char *data; /* a file's synced bytes */
    size_t size;
    struct entries names; /* a folder's synced names */
    struct change *changes;
    size_t n_change;
    int64_t index;
};

struct disk {
    const struct disk_log *log;
    struct node *all, *root;
    struct node **open; /* by number */
    const struct disk_loss *loss;
    int64_t n_node;
};

/* ---- records ---- */

static struct shim_record record_at(const struct disk_log *log, int64_t i, const char **path,
                                    const char **to, const char **data)
{
    struct shim_record r;
    memcpy(&r, log->records[i], sizeof r);
    *path = log->records[i] + sizeof r;
    *to = *path + r.path_bytes;
    *data = *to + r.to_bytes;
    return r;
}

/* Below the root; "" is the root itself. */
static char *below(const struct disk_log *log, const char *path, size_t n)
{
    const size_t root = strlen(log->root);
    if (n < root || memcmp(path, log->root, root) != 0)
        tree_die("the log names %.*s, which is not in %s", (int)n, path, log->root);
    const size_t skip = n > root ? root + 1 : root;
    return tree_text("%.*s", (int)(n - skip), path + skip);
}

void disk_log_load(struct disk_log *log, const char *path, const char *root)
{
    *log = (struct disk_log){ .root = tree_text("%s", root) };
    log->bytes = tree_load(path, &log->size);
    for (size_t at = 0; at < log->size;) {
        struct shim_record r;
        if (log->size - at < sizeof r)
            break; /* the program was killed at it */
        memcpy(&r, log->bytes + at, sizeof r);
        const size_t whole = sizeof r + r.path_bytes + r.to_bytes + r.data_bytes;
        if (log->size - at < whole)
            break;
        if (log->n % 1024 == 0) {
            const char **more =
                realloc(log->records, (size_t)(log->n + 1024) * sizeof *log->records);
            if (more == NULL)
                tree_die("the test is out of memory");
            log->records = more;
        }
        log->records[log->n++] = log->bytes + at;
        at += whole;
    }
}

void disk_log_free(struct disk_log *log)
{
    free(log->bytes);
    free(log->records);
    free(log->root);
    *log = (struct disk_log){ 0 };
}

char *disk_renamed_to(const struct disk_log *log, int64_t record)
{
    const char *path, *to, *data;
    const struct shim_record r = record_at(log, record, &path, &to, &data);
    return r.change == SHIM_RENAMED ? below(log, to, r.to_bytes) : NULL;
}

const char *disk_written(const struct disk_log *log, int64_t record, size_t *n)
{
    const char *path, *to, *data;
    const struct shim_record r = record_at(log, record, &path, &to, &data);
    *n = (size_t)r.data_bytes;
    return r.change == SHIM_WROTE ? data : NULL;
}

int64_t disk_saved_step(const struct disk_log *log, int64_t record)
{
    char *name = disk_renamed_to(log, record);
    int64_t step = -1;
    int n = 0;
    const char *last = name == NULL ? NULL : strrchr(name, '/');
    last = last == NULL ? name : last + 1;
    if (last != NULL &&
        (sscanf(last, "checkpoint-%" SCNd64 "%n", &step, &n) != 1 || last[n] != '\0'))
        step = -1;
    free(name);
    return step;
}

/* ---- nodes ---- */

static struct node *node_new(struct disk *d, bool is_folder)
{
    struct node *node = tree_alloc(sizeof *node);
    *node = (struct node){ .next = d->all, .is_folder = is_folder, .index = d->n_node++ };
    d->all = node;
    return node;
}

static void entries_free(struct entries *e)
{
    for (size_t i = 0; i < e->n; i++)
        free(e->at[i].name);
    free(e->at);
    *e = (struct entries){ 0 };
}

static struct entry *entries_find(const struct entries *e, const char *name)
{
    for (size_t i = 0; i < e->n; i++) {
        if (strcmp(e->at[i].name, name) == 0)
            return &e->at[i];
    }
    return NULL;
}

static void entries_put(struct entries *e, const char *name, struct node *node)
{
    struct entry *have = entries_find(e, name);
    if (have != NULL) {
        have->node = node;
        return;
    }
    struct entry *more = realloc(e->at, (e->n + 1) * sizeof *more);
    if (more == NULL)
        tree_die("the test is out of memory");
    e->at = more;
    e->at[e->n++] = (struct entry){ tree_text("%s", name), node };
}

static void entries_drop(struct entries *e, const char *name)
{
    struct entry *have = entries_find(e, name);
    if (have == NULL)
        return;
    free(have->name);
    *have = e->at[--e->n];
}

static void apply_name(struct entries *e, const struct change *c)
{
    if (c->swap) {
        struct entry *a = entries_find(e, c->from), *b = entries_find(e, c->to);
        if (a != NULL && b != NULL) {
            struct node *node = a->node;
            a->node = b->node;
            b->node = node;
        }
        return;
    }
    if (c->from != NULL)
        entries_drop(e, c->from);
    if (c->to != NULL)
        entries_put(e, c->to, c->node);
}

/* A folder's names after its first n changes; the caller frees. */
static struct entries names_after(const struct node *folder, size_t n)
{
    struct entries e = { 0 };
    for (size_t i = 0; i < folder->names.n; i++)
        entries_put(&e, folder->names.at[i].name, folder->names.at[i].node);
    for (size_t i = 0; i < n; i++)
        apply_name(&e, &folder->changes[i]);
    return e;
}

static struct change *add_change(struct node *node)
{
    struct change *more = realloc(node->changes, (node->n_change + 1) * sizeof *more);
    if (more == NULL)
        tree_die("the test is out of memory");
    node->changes = more;
    more[node->n_change] = (struct change){ 0 };
    return &more[node->n_change++];
}

static void forget_changes(struct node *node)
{
    for (size_t i = 0; i < node->n_change; i++) {
        free(node->changes[i].from);
        free(node->changes[i].to);
    }
    free(node->changes);
    node->changes = NULL;
    node->n_change = 0;
}

/* ---- a file's bytes ---- */

struct bytes {
    char *data;
    size_t size;
};

static void resize(struct bytes *b, size_t size)
{
    char *more = tree_alloc(size);
    memcpy(more, b->data, size < b->size ? size : b->size);
    free(b->data);
    b->data = more;
    b->size = size;
}

static double draw(const struct disk *d, const struct node *node, uint64_t i)
{
    return rng_uniform(d->loss->seed, RNG_INIT_WEIGHTS, (uint64_t)node->index, i);
}

/* How much of a write is there: [0, kept) of it, and of those blocks that `some` lets. */
static void apply_write(const struct disk *d, const struct node *node, struct bytes *b,
                        const struct change *c, size_t i, enum disk_fate fate, bool last)
{
    if (c->data == NULL) {
        resize(b, (size_t)c->offset);
        return;
    }
    const size_t block = (size_t)d->loss->block, from = (size_t)c->offset;
    size_t end = from + c->size;
    if (fate == DISK_TORN && last) {
        end = from + (size_t)(draw(d, node, 1000 + i) * (double)c->size);
        end = end / block * block;
        end = end < from ? from : end;
    }
    if (end > b->size)
        resize(b, end);
    for (size_t at = from; at < end;) {
        size_t n = block - at % block;
        n = n < end - at ? n : end - at;
        const bool there =
            fate != DISK_ZEROED && (fate != DISK_MIXED || draw(d, node, 100000 + at / block) < 0.5);
        if (there)
            memcpy(b->data + at, c->data + (at - from), n);
        at += n;
    }
}

/* What is found of a file. DISK_TORN: up to some write, which is cut. */
static struct bytes bytes_of(const struct disk *d, const struct node *node, enum disk_fate fate)
{
    struct bytes b = { tree_alloc(node->size), node->size };
    if (node->size > 0)
        memcpy(b.data, node->data, node->size);
    size_t n = fate == DISK_DROPPED ? 0 : node->n_change;
    if (fate == DISK_TORN && n > 0)
        n = (size_t)(draw(d, node, 1) * (double)n) + 1;
    for (size_t i = 0; i < n; i++)
        apply_write(d, node, &b, &node->changes[i], i, fate, i + 1 == n);
    return b;
}

static void sync_node(struct disk *d, struct node *node)
{
    if (node->is_folder) {
        struct entries e = names_after(node, node->n_change);
        entries_free(&node->names);
        node->names = e;
    } else {
        struct bytes b = bytes_of(d, node, DISK_KEPT);
        free(node->data);
        node->data = b.data;
        node->size = b.size;
    }
    forget_changes(node);
}

/* ---- what the program saw ---- */

/* The folder that a path is in, as the program sees it, and its last part in *name; or NULL. */
static struct node *folder_of(struct disk *d, const char *path, const char **name)
{
    struct node *folder = d->root;
    const char *slash;
    while (folder != NULL && (slash = strchr(path, '/')) != NULL) {
        char *part = tree_text("%.*s", (int)(slash - path), path);
        struct entries e = names_after(folder, folder->n_change);
        const struct entry *entry = entries_find(&e, part);
        folder = entry != NULL && entry->node->is_folder ? entry->node : NULL;
        entries_free(&e);
        free(part);
        path = slash + 1;
    }
    *name = path;
    return folder;
}

static struct node *look_up(struct disk *d, const char *path)
{
    if (*path == '\0')
        return d->root;
    const char *name;
    struct node *folder = folder_of(d, path, &name), *found = NULL;
    if (folder == NULL)
        return NULL;
    struct entries e = names_after(folder, folder->n_change);
    const struct entry *entry = entries_find(&e, name);
    found = entry != NULL ? entry->node : NULL;
    entries_free(&e);
    return found;
}

static void change_name(struct disk *d, const char *from, const char *to, struct node *node,
                        bool swap)
{
    const char *from_name = NULL, *to_name = NULL;
    struct node *a = from != NULL ? folder_of(d, from, &from_name) : NULL;
    struct node *b = to != NULL ? folder_of(d, to, &to_name) : NULL;
    if ((from != NULL && to != NULL && a != b) || (a == NULL && b == NULL))
        tree_die("the log changes '%s' to '%s', which this model of a disk cannot", from, to);
    struct change *c = add_change(a != NULL ? a : b);
    *c = (struct change){ .from = from_name != NULL ? tree_text("%s", from_name) : NULL,
                          .to = to_name != NULL ? tree_text("%s", to_name) : NULL,
                          .node = node,
                          .swap = swap };
}

static void replay_open(struct disk *d, const char *path, const struct shim_record *r)
{
    struct node *node = look_up(d, path);
    if (node == NULL) {
        node = node_new(d, false);
        change_name(d, NULL, path, node, false);
    }
    if (r->number >= MAX_OPEN)
        tree_die("the log opens too many files");
    d->open[r->number] = node;
}

static void replay(struct disk *d, int64_t i)
{
    const char *path, *to, *data;
    const struct shim_record r = record_at(d->log, i, &path, &to, &data);
    char *name = r.path_bytes > 0 ? below(d->log, path, r.path_bytes) : NULL;
    char *second = r.to_bytes > 0 ? below(d->log, to, r.to_bytes) : NULL;
    struct node *node = d->open[r.number];
    switch ((enum shim_change)r.change) {
    case SHIM_OPENED:
        replay_open(d, name, &r);
        break;
    case SHIM_WROTE:
        *add_change(node) =
            (struct change){ .offset = r.offset, .data = data, .size = r.data_bytes };
        break;
    case SHIM_CUT:
        *add_change(node) = (struct change){ .offset = r.offset };
        break;
    case SHIM_SYNCED:
        sync_node(d, node);
        break;
    case SHIM_RENAMED:
        change_name(d, name, second, look_up(d, name), r.offset == EXCHANGE);
        break;
    case SHIM_UNLINKED:
        change_name(d, name, NULL, NULL, false);
        break;
    case SHIM_MADE:
        change_name(d, NULL, name, node_new(d, true), false);
        break;
    }
    free(name);
    free(second);
}

bool disk_is_sync_of(const struct disk_log *log, int64_t record, const char *folder)
{
    const char *path, *to, *data;
    struct shim_record r = record_at(log, record, &path, &to, &data);
    if (r.change != SHIM_SYNCED)
        return false;
    const int64_t number = r.number;
    while (record-- > 0) { /* where it was opened */
        r = record_at(log, record, &path, &to, &data);
        if (r.change == SHIM_OPENED && r.number == number) {
            char *name = below(log, path, r.path_bytes);
            const bool same = strcmp(name, folder) == 0;
            free(name);
            return same;
        }
    }
    return false;
}

/* ---- what is found ---- */

static enum disk_fate fate_of(const struct disk *d, const struct node *node)
{
    const enum disk_fate fate = node->is_folder ? d->loss->names : d->loss->data;
    if (fate != DISK_RANDOM)
        return fate;
    static const enum disk_fate any[] = { DISK_KEPT, DISK_DROPPED, DISK_TORN, DISK_ZEROED,
                                          DISK_MIXED };
    return any[(int)(draw(d, node, 0) * (node->is_folder ? 3 : 5))];
}

static void find_below(const struct disk *d, const struct node *folder, const char *path,
                       struct tree *tree)
{
    const enum disk_fate fate = fate_of(d, folder);
    const size_t most = folder->n_change;
    struct entries e =
        names_after(folder, fate == DISK_DROPPED ? 0
                            : fate == DISK_TORN  ? (size_t)(draw(d, folder, 1) * ((double)most + 1))
                                                 : most);
    for (size_t i = 0; i < e.n; i++) {
        char *name = tree_text("%s%s%s", path, *path != '\0' ? "/" : "", e.at[i].name);
        const struct node *node = e.at[i].node;
        if (node->is_folder) {
            tree_put(tree, name, NULL, 0);
            find_below(d, node, name, tree);
        } else {
            struct bytes b = bytes_of(d, node, fate_of(d, node));
            tree_put(tree, name, b.data, b.size);
            free(b.data);
        }
        free(name);
    }
    entries_free(&e);
}

void disk_rebuild(const struct disk_log *log, const struct disk_loss *loss, struct tree *tree)
{
    struct disk d = { .log = log, .loss = loss };
    d.open = tree_alloc(MAX_OPEN * sizeof *d.open);
    d.root = node_new(&d, true);
    for (int64_t i = 0; i < loss->prefix; i++)
        replay(&d, i);
    tree_free(tree);
    find_below(&d, d.root, "", tree);
    for (struct node *node = d.all, *next; node != NULL; node = next) {
        next = node->next;
        forget_changes(node);
        entries_free(&node->names);
        free(node->data);
        free(node);
    }
    free(d.open);
}
