/* The `loop` of a for: position, neighbours, length. */
#ifndef DATASETS_JINJA_LOOP_H
#define DATASETS_JINJA_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "datasets/jinja_iter.h"
#include "datasets/jinja_run.h"

struct jinja_loop {
    struct value iterable;
    struct iter it;
    int64_t index0, depth0;
    int64_t length;                      /* -1: not asked for yet */
    struct value before, current, after; /* MISSING: none, or not looked at yet */
    struct value_list *changed;          /* the last arguments of loop.changed() */
    /* recursive loops: what to render with other items */
    const struct node *recurse;
    struct jinja_activation *around;
};

bool loop_open(struct jinja_run *r, const struct value *iterable, struct jinja_loop *loop);
/* The next item into loop->current. */
bool loop_next(struct jinja_run *r, struct jinja_loop *loop, bool *done);
bool loop_length(struct jinja_run *r, struct jinja_loop *loop, int64_t *out);
/* loop.name; *found false when there is no such attribute. */
bool loop_attr(struct jinja_run *r, const struct value *v, const struct value_string *name,
               struct value *out, bool *found);

/* Methods of loop (jinja_methods.c). */
bool loop_cycle(struct jinja_run *r, struct value self, const struct call_args *args,
                struct value *out);
bool loop_changed(struct jinja_run *r, struct value self, const struct call_args *args,
                  struct value *out);

#endif
