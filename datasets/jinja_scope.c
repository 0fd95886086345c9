/* Which slot a name means, decided as jinja2's compiler decides it, since templates show the
 * difference: a name that is set anywhere in a frame is that frame's own from the frame's start,
 * and inner frames (loop bodies, macros, ...) see it rather than a variable of the same name.
 *
 * Each frame is looked over first, without its inner frames: what it sets and what it reads. A name
 * new to it and to the frames around it is
 *     read first            loaded from the variables when the frame is entered
 *     set first             undefined, or a copy of the outer frame's slot
 *     set inside an if      as before the if: a copy of the outer slot, or loaded
 * Then the frame's nodes get their slots, and inner frames their turn.
 */
#include "datasets/jinja_scope.h"

#include <string.h>

#include "datasets/jinja_filters.h"
#include "datasets/jinja_tests.h"

struct function {
    struct function *around;
    int32_t n_slot;
};

struct symbol {
    const struct value_string *name;
    struct frame_load load;
    bool stored;
};

struct symbols {
    struct symbols *around;
    struct function *function;
    struct symbol *at;
    size_t n, cap;
    size_t *stored; /* indices of the stored ones, in order; n_stored <= n <= cap */
    size_t n_stored;
};

struct scope {
    struct jinja_template *template;
    struct jinja_arena *arena;
    struct err *err;
    size_t n_symbol;
};

/* Names are looked up one by one; no template has a hundredth of this. */
enum { MAX_SYMBOLS = 10000 };

static bool fail(struct scope *c, const struct node *n, const char *what,
                 const struct value_string *name)
{
    const int len = name->len > 100 ? 100 : (int)name->len;
    return err_set(c->err, ERR_DATA, "%s:%d:%d: %s '%.*s'", c->template->name, (int)n->line,
                   (int)n->column, what, len, name->data);
}

static bool no_memory(struct scope *c)
{
    return err_no_memory(c->err, c->template->name);
}

/* --- the names of a frame --- */

static struct symbol *find_here(const struct symbols *s, const struct value_string *name)
{
    for (size_t i = 0; i < s->n; i++) {
        if (string_equal(s->at[i].name, name))
            return &s->at[i];
    }
    return NULL;
}

/* The symbol of this frame or one around it; *up functions away from `from`. */
static struct symbol *find(const struct symbols *s, const struct function *from,
                           const struct value_string *name, int32_t *up)
{
    for (; s != NULL; s = s->around) {
        struct symbol *found = find_here(s, name);
        if (found == NULL)
            continue;
        *up = 0;
        for (const struct function *f = from; f != s->function; f = f->around)
            ++*up;
        return found;
    }
    return NULL;
}

/* What an if, or setting first, does to a name: a copy of the outer slot or else `how`. */
static void load_outer(struct symbols *s, struct symbol *symbol, enum load_how how)
{
    int32_t up = 0;
    const struct symbol *outer = find(s->around, s->function, symbol->name, &up);
    symbol->load.how = outer != NULL ? LOAD_OUTER : how;
    symbol->load.up = up;
    symbol->load.from = outer != NULL ? outer->load.slot : 0;
}

static struct symbol *define(struct scope *c, struct symbols *s, const struct value_string *name)
{
    if (++c->n_symbol > MAX_SYMBOLS) {
        err_set(c->err, ERR_DATA, "%s: has too many names (%d are supported)", c->template->name,
                MAX_SYMBOLS);
        return NULL;
    }
    if (s->n == s->cap) {
        const size_t cap = s->cap == 0 ? 8 : s->cap * 2;
        struct symbol *at = jinja_take_array(c->arena, cap, sizeof *at);
        size_t *stored = jinja_take_array(c->arena, cap, sizeof *stored);
        if (at == NULL || stored == NULL) {
            no_memory(c);
            return NULL;
        }
        if (s->n > 0)
            memcpy(at, s->at, s->n * sizeof *at);
        if (s->n_stored > 0)
            memcpy(stored, s->stored, s->n_stored * sizeof *stored);
        s->at = at;
        s->stored = stored;
        s->cap = cap;
    }
    struct symbol *symbol = &s->at[s->n++];
    *symbol = (struct symbol){ .name = name, .load.slot = s->function->n_slot++ };
    return symbol;
}

static bool read_name(struct scope *c, struct symbols *s, const struct value_string *name)
{
    int32_t up = 0;
    if (find(s, s->function, name, &up) != NULL)
        return true;
    struct symbol *symbol = define(c, s, name);
    if (symbol != NULL)
        symbol->load.how = LOAD_CONTEXT;
    return symbol != NULL;
}

static bool store_name(struct scope *c, struct symbols *s, const struct value_string *name)
{
    struct symbol *symbol = find_here(s, name);
    if (symbol == NULL) {
        symbol = define(c, s, name);
        if (symbol == NULL)
            return false;
        load_outer(s, symbol, LOAD_UNDEFINED);
    }
    if (!symbol->stored) {
        symbol->stored = true;
        s->stored[s->n_stored++] = (size_t)(symbol - s->at);
    }
    return true;
}

static bool declare(struct scope *c, struct symbols *s, const struct value_string *name,
                    int32_t *slot)
{
    struct symbol *symbol = find_here(s, name);
    if (symbol == NULL)
        symbol = define(c, s, name);
    if (symbol == NULL)
        return false;
    if (!symbol->stored) {
        symbol->stored = true;
        s->stored[s->n_stored++] = (size_t)(symbol - s->at);
    }
    symbol->load.how = LOAD_NONE;
    if (slot != NULL)
        *slot = symbol->load.slot;
    return true;
}

/* --- looking over a frame --- */

static bool look_list(struct scope *c, struct symbols *s, const struct node_list *list);

/* The names of a target; as parameters when the frame is entered with them. */
static bool look_target(struct scope *c, struct symbols *s, const struct node *n, bool parameter)
{
    if (n->kind == NODE_NS_ATTR)
        return read_name(c, s, n->name);
    if (n->kind == NODE_NAME)
        return parameter ? declare(c, s, n->name, NULL) : store_name(c, s, n->name);
    for (size_t i = 0; i < n->items.n; i++) {
        if (!look_target(c, s, n->items.at[i], parameter))
            return false;
    }
    return true;
}

static bool look(struct scope *c, struct symbols *s, const struct node *n);

static bool look_call(struct scope *c, struct symbols *s, const struct node_call *call)
{
    if (!look_list(c, s, &call->args))
        return false;
    for (size_t i = 0; i < call->n_keyword; i++) {
        if (!look(c, s, call->keywords[i].value))
            return false;
    }
    return look(c, s, call->star) && look(c, s, call->star_star);
}

static bool look_if(struct scope *c, struct symbols *s, const struct node *n)
{
    if (!look(c, s, n->left))
        return false;
    const size_t before = s->n_stored;
    if (!look_list(c, s, &n->body) || !look_list(c, s, &n->items) || !look_list(c, s, &n->rest))
        return false;
    for (size_t i = before; i < s->n_stored; i++)
        load_outer(s, &s->at[s->stored[i]], LOAD_CONTEXT);
    return true;
}

/* One node of a frame; inner frames are only looked at where they belong to this one. */
static bool look(struct scope *c, struct symbols *s, const struct node *n)
{
    if (n == NULL)
        return true;
    switch (n->kind) {
    case NODE_NAME:
        return read_name(c, s, n->name);
    case NODE_IF:
        return look_if(c, s, n);
    case NODE_FOR:
        return look(c, s, n->right);
    case NODE_SET:
        return look(c, s, n->right) && look_target(c, s, n->left, false);
    case NODE_SET_BLOCK:
        return look_target(c, s, n->left, false);
    case NODE_WITH:
        for (size_t i = 1; i < n->items.n; i += 2) {
            if (!look(c, s, n->items.at[i]))
                return false;
        }
        return true;
    case NODE_MACRO:
        return store_name(c, s, n->macro->name);
    case NODE_CALL_BLOCK:
        return look(c, s, n->left);
    case NODE_FILTER_BLOCK:
        return look(c, s, n->right);
    case NODE_TEXT:
    case NODE_GENERATION:
    case NODE_BREAK:
    case NODE_CONTINUE:
        return true;
    default: /* expressions, and what is printed */
        return look(c, s, n->left) && look(c, s, n->right) && look(c, s, n->other) &&
               look_list(c, s, &n->items) && (n->call == NULL || look_call(c, s, n->call));
    }
}

static bool look_list(struct scope *c, struct symbols *s, const struct node_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        if (!look(c, s, list->at[i]))
            return false;
    }
    return true;
}

/* --- giving nodes their slots --- */

static bool place_list(struct scope *c, struct symbols *s, const struct node_list *list, bool soft);
static bool place(struct scope *c, struct symbols *s, struct node *n, bool soft);

/* What the frame loads when it is entered; after it was looked over. */
static bool close_frame(struct scope *c, const struct symbols *s, struct node_frame *frame)
{
    struct jinja_template *t = c->template;
    frame->loads = jinja_take_array(c->arena, s->n, sizeof *frame->loads);
    if (frame->loads == NULL)
        return no_memory(c);
    for (size_t i = 0; i < s->n; i++) {
        struct frame_load load = s->at[i].load;
        if (load.how == LOAD_NONE)
            continue;
        if (load.how == LOAD_CONTEXT) {
            size_t at = 0;
            while (at < t->n_name && !string_equal(t->names[at], s->at[i].name))
                at++;
            if (at == t->cap_name) {
                const size_t cap = t->cap_name == 0 ? 16 : t->cap_name * 2;
                const struct value_string **names = jinja_take_array(c->arena, cap, sizeof *names);
                if (names == NULL)
                    return no_memory(c);
                for (size_t k = 0; k < t->n_name; k++)
                    names[k] = t->names[k];
                t->names = names;
                t->cap_name = cap;
            }
            if (at == t->n_name)
                t->names[t->n_name++] = s->at[i].name;
            load.from = (int32_t)at;
        }
        frame->loads[frame->n_load++] = load;
    }
    return true;
}

static bool place_name(struct scope *c, const struct symbols *s, struct node *n)
{
    const struct symbol *symbol = find(s, s->function, n->name, &n->up);
    if (symbol == NULL) /* a filter's argument in {% set x | ... %}: jinja2 fails there too */
        return fail(c, n, "this place does not know the name", n->name);
    n->slot = symbol->load.slot;
    return true;
}

static bool place_call(struct scope *c, struct symbols *s, const struct node_call *call, bool soft)
{
    if (!place_list(c, s, &call->args, soft))
        return false;
    for (size_t i = 0; i < call->n_keyword; i++) {
        if (!place(c, s, call->keywords[i].value, soft))
            return false;
    }
    return place(c, s, call->star, soft) && place(c, s, call->star_star, soft);
}

static struct node *copy_target(struct scope *c, const struct node *n)
{
    struct node *copy = jinja_take(c->arena, sizeof *copy);
    if (copy == NULL)
        return NULL;
    *copy = *n;
    copy->items = (struct node_list){ 0 };
    for (size_t i = 0; i < n->items.n; i++) {
        struct node *item = copy_target(c, n->items.at[i]);
        if (item == NULL || !node_list_push(c->arena, &copy->items, item))
            return NULL;
    }
    return copy;
}

/* The filter of a for is a function of its own, with its own copy of the target. */
static bool place_test(struct scope *c, struct symbols *around, struct node *n)
{
    struct function function = { .around = around->function };
    struct symbols s = { .around = around, .function = &function };
    n->loop->test_target = copy_target(c, n->left);
    if (n->loop->test_target == NULL)
        return no_memory(c);
    if (!look_target(c, &s, n->left, true) || !look(c, &s, n->other) ||
        !close_frame(c, &s, &n->loop->test) || !place(c, &s, n->loop->test_target, false) ||
        !place(c, &s, n->other, false))
        return false;
    n->loop->n_slot_test = function.n_slot;
    return true;
}

static bool place_for(struct scope *c, struct symbols *around, struct node *n, bool soft)
{
    static const struct value_string loop_name = { .data = "loop", .len = 4 };
    struct node_for *loop = n->loop;
    struct function own = { .around = around->function };
    struct function *function = loop->recursive ? &own : around->function;
    if (!place(c, around, n->right, soft) || (n->other != NULL && !place_test(c, around, n)))
        return false;

    struct symbols s = { .around = around, .function = function };
    loop->slot_loop = NO_SLOT;
    if ((loop->recursive || jinja_reads(&n->body, "loop")) &&
        !declare(c, &s, &loop_name, &loop->slot_loop))
        return false;
    if (!look_target(c, &s, n->left, true) || !look_list(c, &s, &n->body) ||
        !close_frame(c, &s, &loop->body) || !place(c, &s, n->left, false) ||
        !place_list(c, &s, &n->body, false))
        return false;

    struct symbols rest = { .around = around, .function = function };
    if (!look_list(c, &rest, &n->rest) || !close_frame(c, &rest, &loop->rest) ||
        !place_list(c, &rest, &n->rest, false))
        return false;
    loop->n_slot = own.n_slot;
    return true;
}

static bool place_macro(struct scope *c, struct symbols *around, struct node *n)
{
    static const struct value_string names[3] = { { .data = "caller", .len = 6 },
                                                  { .data = "kwargs", .len = 6 },
                                                  { .data = "varargs", .len = 7 } };
    struct node_macro *m = n->macro;
    int32_t *slots[3] = { &m->slot_caller, &m->slot_kwargs, &m->slot_varargs };
    struct function function = { .around = around->function };
    struct symbols s = { .around = around, .function = &function };
    for (size_t i = 0; i < m->args.n; i++) {
        if (!declare(c, &s, m->args.at[i]->name, NULL))
            return false;
    }
    if (!look_list(c, &s, &m->defaults) || !look_list(c, &s, &m->body))
        return false;
    for (int k = 0; k < 3; k++) {
        size_t arg = 0;
        while (arg < m->args.n && !string_equal(m->args.at[arg]->name, &names[k]))
            arg++;
        const bool is_arg = arg < m->args.n;
        *slots[k] = NO_SLOT;
        if (k == 0)
            m->explicit_caller = is_arg;
        const bool read = jinja_reads(&m->body, names[k].data);
        if (k == 0 && is_arg && read && arg < m->args.n - m->defaults.n)
            return fail(c, n,
                        "in macros and call blocks, this argument needs a default:", &names[k]);
        if (read && !is_arg && !declare(c, &s, &names[k], slots[k]))
            return false;
    }
    if (!close_frame(c, &s, &m->frame) || !place_list(c, &s, &m->args, false) ||
        !place_list(c, &s, &m->defaults, false) || !place_list(c, &s, &m->body, false))
        return false;
    m->n_slot = function.n_slot;
    return true;
}

/* with, set blocks and filter blocks: a frame inside the same function. */
static bool place_inner(struct scope *c, struct symbols *around, struct node *n, bool soft)
{
    struct symbols s = { .around = around, .function = around->function };
    if (n->kind == NODE_WITH) {
        for (size_t i = 0; i < n->items.n; i += 2) {
            if (!place(c, around, n->items.at[i + 1], soft) ||
                !look_target(c, &s, n->items.at[i], true))
                return false;
        }
    }
    if (!look_list(c, &s, &n->body) || (n->kind == NODE_FILTER_BLOCK && !look(c, &s, n->right)) ||
        !close_frame(c, &s, &n->frame))
        return false;
    if (n->kind == NODE_WITH) {
        for (size_t i = 0; i < n->items.n; i += 2) {
            if (!place(c, &s, n->items.at[i], false))
                return false;
        }
    }
    return place_list(c, &s, &n->body, false) &&
           (n->kind == NODE_WITH || place(c, &s, n->right, false)) &&
           (n->kind != NODE_SET_BLOCK || place(c, around, n->left, soft));
}

static bool place_filter(struct scope *c, struct node *n, bool soft)
{
    const bool is_filter = n->kind == NODE_FILTER;
    bool refused = false;
    if (is_filter)
        n->filter = filter_find(n->name, &refused);
    else
        n->test = test_find(n->name, &refused);
    if (refused)
        return fail(c, n,
                    is_filter ? "not supported in chat templates: filter"
                              : "not supported in chat templates: test",
                    n->name);
    if (n->filter == NULL && n->test == NULL && !soft)
        return fail(c, n, is_filter ? "no filter named" : "no test named", n->name);
    return true;
}

static bool place(struct scope *c, struct symbols *s, struct node *n, bool soft)
{
    if (n == NULL)
        return true;
    switch (n->kind) {
    case NODE_NAME:
    case NODE_NS_ATTR:
        return place_name(c, s, n);
    case NODE_IF:
        return place(c, s, n->left, true) && place_list(c, s, &n->body, true) &&
               place_list(c, s, &n->items, true) && place_list(c, s, &n->rest, true);
    case NODE_IF_ELSE:
        soft = true;
        break;
    case NODE_FOR:
        return place_for(c, s, n, soft);
    case NODE_WITH:
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK:
        return place_inner(c, s, n, soft);
    case NODE_MACRO: {
        const struct symbol *symbol = find(s, s->function, n->macro->name, &n->up);
        if (symbol == NULL)
            return fail(c, n, "this place does not know the name", n->macro->name);
        n->slot = symbol->load.slot;
        return place_macro(c, s, n);
    }
    case NODE_CALL_BLOCK:
        return place_macro(c, s, n) && place(c, s, n->left, soft);
    case NODE_GENERATION:
        return place_macro(c, s, n);
    case NODE_FILTER:
    case NODE_TEST:
        if (!place_filter(c, n, soft))
            return false;
        break;
    default:
        break;
    }
    return place(c, s, n->left, soft) && place(c, s, n->right, soft) &&
           place(c, s, n->other, soft) && place_list(c, s, &n->items, soft) &&
           (n->call == NULL || place_call(c, s, n->call, soft));
}

static bool place_list(struct scope *c, struct symbols *s, const struct node_list *list, bool soft)
{
    for (size_t i = 0; i < list->n; i++) {
        if (!place(c, s, list->at[i], soft))
            return false;
    }
    return true;
}

bool jinja_resolve(struct jinja_template *t, struct err *err)
{
    static const struct value_string self = { .data = "self", .len = 4 };
    struct scope c = { .template = t, .arena = &t->arena, .err = err };
    if (jinja_reads(&t->body, "self")) {
        const struct node top = { .line = 1, .column = 1 };
        return fail(&c, &top, "not supported in chat templates: the variable", &self);
    }
    struct function function = { 0 };
    struct symbols s = { .function = &function };
    if (!look_list(&c, &s, &t->body) || !close_frame(&c, &s, &t->frame) ||
        !place_list(&c, &s, &t->body, false))
        return false;
    t->n_slot = function.n_slot;
    return true;
}
