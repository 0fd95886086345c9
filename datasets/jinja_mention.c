/* Whether a piece of a template reads a name before it sets it, looked at in jinja2's order. */
#include "datasets/jinja_scope.h"

enum mention { MENTION_NONE, MENTION_READ, MENTION_SET };

static enum mention mention(const struct node *n, const char *name, bool target);

static enum mention mention_list(const struct node_list *list, const char *name, bool target)
{
    enum mention m = MENTION_NONE;
    for (size_t i = 0; i < list->n && m == MENTION_NONE; i++) {
        if (list->at[i] != NULL)
            m = mention(list->at[i], name, target);
    }
    return m;
}

static enum mention mention_call(const struct node_call *call, const char *name)
{
    enum mention m = mention_list(&call->args, name, false);
    for (size_t i = 0; i < call->n_keyword && m == MENTION_NONE; i++)
        m = mention(call->keywords[i].value, name, false);
    if (m == MENTION_NONE && call->star != NULL)
        m = mention(call->star, name, false);
    if (m == MENTION_NONE && call->star_star != NULL)
        m = mention(call->star_star, name, false);
    return m;
}

static enum mention mention_macro(const struct node_macro *macro, const char *name)
{
    enum mention m = mention_list(&macro->args, name, true);
    if (m == MENTION_NONE)
        m = mention_list(&macro->defaults, name, false);
    return m == MENTION_NONE ? mention_list(&macro->body, name, false) : m;
}

/* Children in the order that jinja2 looks at them. */
static enum mention mention(const struct node *n, const char *name, bool target)
{
    enum mention m = MENTION_NONE;
    const struct node *parts[3] = { n->left, n->right, n->other };
    bool store[3] = { false, false, false };
    switch (n->kind) {
    case NODE_NAME:
        if (!string_is(n->name, name))
            return MENTION_NONE;
        return target ? MENTION_SET : MENTION_READ;
    case NODE_NS_ATTR:
        return MENTION_NONE;
    case NODE_TUPLE:
        return mention_list(&n->items, name, target);
    case NODE_FOR:
        store[0] = true;
        break;
    case NODE_SET:
    case NODE_SET_BLOCK:
        store[0] = true;
        break;
    case NODE_IF_ELSE:
        parts[0] = n->right;
        parts[1] = n->left;
        break;
    case NODE_WITH:
        for (size_t i = 0; i < n->items.n && m == MENTION_NONE; i += 2)
            m = mention(n->items.at[i], name, true);
        for (size_t i = 1; i < n->items.n && m == MENTION_NONE; i += 2)
            m = mention(n->items.at[i], name, false);
        return m == MENTION_NONE ? mention_list(&n->body, name, false) : m;
    default:
        break;
    }
    const bool test_last = n->kind == NODE_FOR;
    for (int i = 0; i < (test_last ? 2 : 3) && m == MENTION_NONE; i++) {
        if (parts[i] != NULL)
            m = mention(parts[i], name, store[i]);
    }
    if (m == MENTION_NONE && n->call != NULL)
        m = mention_call(n->call, name);
    if (m == MENTION_NONE && n->macro != NULL)
        m = mention_macro(n->macro, name);
    if (n->kind == NODE_IF) { /* body before the elifs */
        if (m == MENTION_NONE)
            m = mention_list(&n->body, name, false);
        if (m == MENTION_NONE)
            m = mention_list(&n->items, name, false);
    } else {
        if (m == MENTION_NONE)
            m = mention_list(&n->items, name, false);
        if (m == MENTION_NONE)
            m = mention_list(&n->body, name, false);
    }
    if (m == MENTION_NONE)
        m = mention_list(&n->rest, name, false);
    if (m == MENTION_NONE && test_last && n->other != NULL)
        m = mention(n->other, name, false);
    return m;
}

bool jinja_reads(const struct node_list *body, const char *name)
{
    return mention_list(body, name, false) == MENTION_READ;
}
