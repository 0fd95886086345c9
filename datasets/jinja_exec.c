/* Statements. */
#include "datasets/jinja_eval.h"

#include <stdlib.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_ops.h"
#include "datasets/jinja_repr.h"

struct jinja_activation *jinja_activate(struct jinja_run *r, struct jinja_activation *around,
                                        int32_t n_slot)
{
    struct jinja_activation *act = jinja_take(&r->arena, sizeof *act);
    if (act == NULL)
        return NULL;
    act->around = around;
    act->slots = jinja_take_array(&r->arena, (size_t)n_slot, sizeof *act->slots);
    return act->slots != NULL ? act : NULL;
}

static struct jinja_activation *outer(struct jinja_activation *act, int32_t up)
{
    for (; up > 0; up--)
        act = act->around;
    return act;
}

void jinja_enter_frame(struct jinja_run *r, struct jinja_activation *act,
                       const struct node_frame *frame)
{
    for (size_t i = 0; i < frame->n_load; i++) {
        const struct frame_load *load = &frame->loads[i];
        struct value *slot = &act->slots[load->slot];
        switch (load->how) {
        case LOAD_CONTEXT:
            *slot = r->names[load->from];
            break;
        case LOAD_OUTER:
            *slot = outer(act, load->up)->slots[load->from];
            break;
        default:
            slot->kind = VALUE_MISSING;
        }
    }
}

static bool unpack(struct jinja_run *r, struct jinja_activation *act, const struct node *target,
                   const struct value *v)
{
    struct iter it;
    struct value item;
    bool done = false;
    const size_t n = target->items.n;
    if (!value_is_iterable(v))
        return jinja_fail(r, "cannot unpack non-iterable %s object", value_type_name(v));
    struct value_list *list = list_new(&r->arena, n);
    if (list == NULL)
        return jinja_no_memory(r);
    if (!iter_open(r, v, &it))
        return false;
    while (true) {
        if (!iter_next(r, &it, &item, &done))
            return false;
        if (done && list->n < n)
            return jinja_fail(r, "not enough values to unpack (expected %zu, got %zu)", n, list->n);
        if (done)
            break;
        if (list->n == n)
            return jinja_fail(r, "too many values to unpack (expected %zu)", n);
        if (!list_push(&r->arena, list, item))
            return jinja_no_memory(r);
    }
    for (size_t i = 0; i < n; i++) {
        if (!jinja_assign(r, act, target->items.at[i], &list->at[i]))
            return false;
    }
    return true;
}

bool jinja_assign(struct jinja_run *r, struct jinja_activation *act, const struct node *target,
                  const struct value *v)
{
    r->at = target;
    if (target->kind == NODE_TUPLE)
        return unpack(r, act, target, v);
    struct value *slot = &outer(act, target->up)->slots[target->slot];
    if (target->kind == NODE_NAME) {
        *slot = *v;
        return true;
    }
    if (slot->kind != VALUE_NAMESPACE)
        return jinja_fail(r, "cannot assign attribute on non-namespace object");
    if (target->attr->len > 0 && target->attr->data[0] == '_')
        return fail_namespace(r, target->attr);
    return dict_set(&r->arena, slot->as.dict, value_of_string(target->attr), *v) ||
           jinja_no_memory(r);
}

/* set looks at all its namespaces before it evaluates anything. */
static bool check_namespaces(struct jinja_run *r, struct jinja_activation *act,
                             const struct node *target)
{
    r->at = target;
    if (target->kind == NODE_NS_ATTR &&
        outer(act, target->up)->slots[target->slot].kind != VALUE_NAMESPACE)
        return jinja_fail(r, "cannot assign attribute on non-namespace object");
    for (size_t i = 0; target->kind == NODE_TUPLE && i < target->items.n; i++) {
        if (!check_namespaces(r, act, target->items.at[i]))
            return false;
    }
    return true;
}

static bool put(struct jinja_run *r, const struct value *v, struct value_text *out)
{
    if (!value_print(r, v, out))
        return false;
    return out != r->root || out->len <= r->limits.output ||
           jinja_fail(r, "output is longer than %zu bytes", r->limits.output);
}

static bool print(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                  struct value_text *out)
{
    struct value v;
    for (size_t i = 0; i < n->items.n; i++) {
        if (!jinja_eval(r, act, n->items.at[i], &v))
            return false;
        r->at = n->items.at[i];
        if (!put(r, &v, out))
            return false;
    }
    return true;
}

static enum flow exec_if(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                         struct value_text *out)
{
    struct value v;
    for (size_t i = 0; i <= n->items.n; i++) {
        const struct node *branch = i == 0 ? n : n->items.at[i - 1];
        if (!jinja_eval(r, act, branch->left, &v))
            return FLOW_FAILED;
        if (value_truth(&v))
            return jinja_exec(r, act, &branch->body, out);
    }
    return jinja_exec(r, act, &n->rest, out);
}

/* The filter of a for, as a generator over its items. */
struct tested {
    struct value in;
    struct iter it;
    bool started;
    const struct node *node;
    struct jinja_activation *act;
};

static bool next_tested(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                        bool *done)
{
    struct tested *s = g->state;
    struct value holds;
    const struct node_for *loop = s->node->loop;
    if (!s->started) {
        jinja_enter_frame(r, s->act, &loop->test);
        if (!iter_open(r, &s->in, &s->it))
            return false;
        s->started = true;
    }
    do {
        if (!iter_next(r, &s->it, out, done))
            return false;
        if (*done)
            return true;
        if (!jinja_assign(r, s->act, loop->test_target, out) ||
            !jinja_eval(r, s->act, s->node->other, &holds))
            return false;
    } while (!value_truth(&holds));
    return true;
}

static bool add_test(struct jinja_run *r, struct jinja_activation *around, const struct node *n,
                     struct value *items)
{
    if (n->other == NULL)
        return true;
    struct tested *s = jinja_take(&r->arena, sizeof *s);
    if (s != NULL) {
        s->in = *items;
        s->node = n;
        s->act = jinja_activate(r, around, n->loop->n_slot_test);
        if (s->act == NULL)
            s = NULL;
    }
    return give_generator(r, next_tested, s, items);
}

/* The body for each item, then the else branch unless some item's body came to its end (a body left
 * by break or continue does not count, as in jinja2). */
static enum flow run_for(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                         struct jinja_loop *loop, struct value_text *out)
{
    const struct node_for *f = n->loop;
    bool done = false, ended = false;
    if (!loop_open(r, &loop->iterable, loop))
        return FLOW_FAILED;
    while (true) {
        if (!loop_next(r, loop, &done))
            return FLOW_FAILED;
        if (done)
            break;
        if (!jinja_assign(r, act, n->left, &loop->current))
            return FLOW_FAILED;
        if (f->slot_loop != NO_SLOT)
            act->slots[f->slot_loop] = (struct value){ .kind = VALUE_LOOP, .as.loop = loop };
        jinja_enter_frame(r, act, &f->body);
        const enum flow flow = jinja_exec(r, act, &n->body, out);
        if (flow == FLOW_FAILED)
            return flow;
        if (flow == FLOW_BREAK)
            break;
        ended = ended || flow == FLOW_ON;
    }
    if (ended || n->rest.n == 0)
        return FLOW_ON;
    jinja_enter_frame(r, act, &f->rest);
    return jinja_exec(r, act, &n->rest, out);
}

static bool run_recursive(struct jinja_run *r, struct jinja_activation *around,
                          const struct node *n, struct value items, int64_t depth0,
                          struct value *out)
{
    struct value_text text = { 0 };
    struct jinja_loop *loop = jinja_take(&r->arena, sizeof *loop);
    struct jinja_activation *act = jinja_activate(r, around, n->loop->n_slot);
    if (loop == NULL || act == NULL)
        return jinja_no_memory(r);
    *loop = (struct jinja_loop){ .depth0 = depth0, .recurse = n, .around = around };
    if (!add_test(r, around, n, &items))
        return false;
    loop->iterable = items;
    const bool ok = jinja_enter(r) && run_for(r, act, n, loop, &text) != FLOW_FAILED &&
                    give_text(r, &text, out);
    jinja_leave(r);
    return ok;
}

bool jinja_recurse(struct jinja_run *r, const struct jinja_loop *loop, const struct value *items,
                   struct value *out)
{
    if (loop->recurse == NULL)
        return jinja_fail(r, "The loop must have the 'recursive' marker to be called recursively.");
    return run_recursive(r, loop->around, loop->recurse, *items, loop->depth0 + 1, out);
}

static enum flow exec_for(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                          struct value_text *out)
{
    struct value items, text;
    if (!jinja_eval(r, act, n->right, &items))
        return FLOW_FAILED;
    r->at = n->right;
    if (n->loop->recursive)
        return run_recursive(r, act, n, items, 0, &text) && put(r, &text, out) ? FLOW_ON
                                                                               : FLOW_FAILED;
    struct jinja_loop *loop = jinja_take(&r->arena, sizeof *loop);
    if (loop == NULL)
        return jinja_no_memory(r) ? FLOW_ON : FLOW_FAILED;
    if (!add_test(r, act, n, &items))
        return FLOW_FAILED;
    loop->iterable = items;
    return run_for(r, act, n, loop, out);
}

static bool exec_set(struct jinja_run *r, struct jinja_activation *act, const struct node *n)
{
    struct value v;
    return check_namespaces(r, act, n->left) && jinja_eval(r, act, n->right, &v) &&
           jinja_assign(r, act, n->left, &v);
}

/* A set or filter block: its text through its filters. A break inside leaves it without a result.
 */
static enum flow exec_captured(struct jinja_run *r, struct jinja_activation *act,
                               const struct node *n, struct value_text *out)
{
    struct value_text text = { 0 };
    struct value v;
    jinja_enter_frame(r, act, &n->frame);
    const enum flow flow = jinja_exec(r, act, &n->body, &text);
    if (flow != FLOW_ON)
        return flow;
    if (!give_text(r, &text, &v) ||
        (n->right != NULL && !jinja_eval_filters(r, act, n->right, v, &v)))
        return FLOW_FAILED;
    const bool ok = n->kind == NODE_SET_BLOCK ? jinja_assign(r, act, n->left, &v) : put(r, &v, out);
    return ok ? FLOW_ON : FLOW_FAILED;
}

static enum flow exec_with(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                           struct value_text *out)
{
    struct value v;
    jinja_enter_frame(r, act, &n->frame);
    for (size_t i = 0; i < n->items.n; i += 2) {
        if (!jinja_eval(r, act, n->items.at[i + 1], &v) ||
            !jinja_assign(r, act, n->items.at[i], &v))
            return FLOW_FAILED;
    }
    return jinja_exec(r, act, &n->body, out);
}

static bool make_macro(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                       struct value *out)
{
    struct value_macro *m = jinja_take(&r->arena, sizeof *m);
    if (m == NULL)
        return jinja_no_memory(r);
    *m = (struct value_macro){ .node = n->macro, .around = act };
    *out = (struct value){ .kind = VALUE_MACRO, .as.macro = m };
    return true;
}

static bool exec_call_block(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                            struct value_text *out)
{
    struct value caller, v;
    return make_macro(r, act, n, &caller) && jinja_eval_call(r, act, n->left, &caller, &v) &&
           put(r, &v, out);
}

static bool add_range(struct jinja_run *r, size_t start, size_t end)
{
    struct jinja_output *o = r->out;
    if (o->n_generation == r->cap_generation) {
        const size_t cap = r->cap_generation == 0 ? 8 : r->cap_generation * 2;
        struct jinja_range *grown = realloc(o->generation, cap * sizeof *grown);
        if (grown == NULL)
            return jinja_no_memory(r);
        o->generation = grown;
        r->cap_generation = cap;
    }
    o->generation[o->n_generation++] = (struct jinja_range){ .start = start, .end = end };
    return true;
}

/* Rendered apart and then printed, as transformers does it: the range starts where the output
 * stands, which is right only where the block prints there. */
static bool exec_generation(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                            struct value_text *out)
{
    struct value macro, v;
    const struct call_args none = { 0 };
    if (!make_macro(r, act, n, &macro) || !jinja_call(r, &macro, &none, &v) ||
        !add_range(r, r->root->len, r->root->len + v.as.string->len))
        return false;
    if (out != r->root)
        r->out->generation_lost = true;
    return put(r, &v, out);
}

static enum flow exec_one(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                          struct value_text *out)
{
    bool ok = true;
    r->at = n;
    switch (n->kind) {
    case NODE_TEXT:
        ok = put(r, &n->value, out);
        break;
    case NODE_PRINT:
        ok = print(r, act, n, out);
        break;
    case NODE_IF:
        return exec_if(r, act, n, out);
    case NODE_FOR:
        return exec_for(r, act, n, out);
    case NODE_SET:
        ok = exec_set(r, act, n);
        break;
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK:
        return exec_captured(r, act, n, out);
    case NODE_WITH:
        return exec_with(r, act, n, out);
    case NODE_MACRO:
        ok = make_macro(r, act, n, &outer(act, n->up)->slots[n->slot]);
        break;
    case NODE_CALL_BLOCK:
        ok = exec_call_block(r, act, n, out);
        break;
    case NODE_GENERATION:
        ok = exec_generation(r, act, n, out);
        break;
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        ok = jinja_fail(r, "not a statement");
    }
    return ok ? FLOW_ON : FLOW_FAILED;
}

enum flow jinja_exec(struct jinja_run *r, struct jinja_activation *act,
                     const struct node_list *body, struct value_text *out)
{
    enum flow flow = jinja_enter(r) ? FLOW_ON : FLOW_FAILED;
    for (size_t i = 0; i < body->n && flow == FLOW_ON; i++)
        flow = jinja_step(r, 1) ? exec_one(r, act, body->at[i], out) : FLOW_FAILED;
    jinja_leave(r);
    return flow;
}
