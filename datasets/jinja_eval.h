/* Walking the nodes: expressions (jinja_eval.c), calls (jinja_call.c), statements (jinja_exec.c).
 */
#ifndef DATASETS_JINJA_EVAL_H
#define DATASETS_JINJA_EVAL_H

#include <stdbool.h>

#include "datasets/jinja_loop.h"
#include "datasets/jinja_run.h"

/* A macro, with the place that it sees names from; or the caller of a call block. */
struct value_macro {
    const struct node_macro *node;
    struct jinja_activation *around;
};

bool jinja_eval(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                struct value *out);
/* The filters of a set or filter block on its text. */
bool jinja_eval_filters(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                        struct value text, struct value *out);
/* A call node; `caller`, when not NULL, is passed along under that name. */
bool jinja_eval_call(struct jinja_run *r, struct jinja_activation *act, const struct node *n,
                     const struct value *caller, struct value *out);
bool jinja_eval_args(struct jinja_run *r, struct jinja_activation *act,
                     const struct node_call *call, const struct value *caller,
                     struct call_args *out);

/* Calls a value: macro, method, function, ... */
bool jinja_call(struct jinja_run *r, const struct value *callee, const struct call_args *args,
                struct value *out);

/* The global of that name; MISSING when there is none. Those of jinja2 that we do not have fail
 * when they are called. */
struct value jinja_global(const struct value_string *name);

/* An attribute that namespaces refuse. */
bool fail_namespace(struct jinja_run *r, const struct value_string *name);

enum flow { FLOW_FAILED, FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

enum flow jinja_exec(struct jinja_run *r, struct jinja_activation *act,
                     const struct node_list *body, struct value_text *out);
/* A function's slots, all MISSING. */
struct jinja_activation *jinja_activate(struct jinja_run *r, struct jinja_activation *around,
                                        int32_t n_slot);
/* Loads what a frame loads when it is entered. */
void jinja_enter_frame(struct jinja_run *r, struct jinja_activation *act,
                       const struct node_frame *frame);
/* target = v, unpacking tuples. */
bool jinja_assign(struct jinja_run *r, struct jinja_activation *act, const struct node *target,
                  const struct value *v);
/* loop(items) of a recursive loop: what the loop renders for them. */
bool jinja_recurse(struct jinja_run *r, const struct jinja_loop *loop, const struct value *items,
                   struct value *out);

#endif
