/* Passing over values: Python's iter() and next(), and generators. */
#ifndef DATASETS_JINJA_ITER_H
#define DATASETS_JINJA_ITER_H

#include <stdbool.h>
#include <stddef.h>

#include "datasets/jinja_run.h"

struct iter {
    struct value of;
    size_t at; /* item, byte or entry */
};

/* A lazy sequence, consumed by whoever asks first. next() gives the items one by one; *done says
 * that there is none left, and stays. */
struct jinja_generator {
    bool (*next)(struct jinja_run *r, struct jinja_generator *g, struct value *out, bool *done);
    void *state;
    bool done;
};

/* Refuses what Python cannot iterate: "'int' object is not iterable". */
bool iter_open(struct jinja_run *r, const struct value *v, struct iter *it);
bool iter_next(struct jinja_run *r, struct iter *it, struct value *out, bool *done);

/* list(v). */
bool iter_list(struct jinja_run *r, const struct value *v, struct value_list **out);

bool value_is_iterable(const struct value *v);

/* len(v), where Python has one. */
bool value_has_length(const struct value *v);
bool value_length(struct jinja_run *r, const struct value *v, int64_t *out);

bool give_generator(struct jinja_run *r,
                    bool (*next)(struct jinja_run *r, struct jinja_generator *g, struct value *out,
                                 bool *done),
                    void *state, struct value *out);

#endif
