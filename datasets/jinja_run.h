/* One rendering: what the files that evaluate share. */
#ifndef DATASETS_JINJA_RUN_H
#define DATASETS_JINJA_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/jinja.h"
#include "datasets/jinja_arena.h"
#include "datasets/jinja_ast.h"
#include "datasets/jinja_value.h"
#include "kernels/core/err.h"

/* A function's slots while it runs; macros keep the one they were made in. */
struct jinja_activation {
    struct jinja_activation *around;
    struct value *slots;
};

struct jinja_run {
    const struct jinja_template *template;
    const struct jinja_env *env;
    struct jinja_limits limits; /* with the defaults filled in */
    struct jinja_output *out;
    struct err *err;
    struct jinja_arena arena;
    int64_t steps;
    int depth;
    const struct node *at;   /* where errors are reported */
    struct value *names;     /* of template->names[]: variables, globals or MISSING */
    struct value_text *root; /* the output itself, not a macro's or block's */
    size_t cap_generation;
};

/* Arguments of a call, evaluated. */
struct call_keyword {
    const struct value_string *name;
    struct value value;
};

struct call_args {
    const struct value *at;
    size_t n;
    const struct call_keyword *keywords;
    size_t n_keyword;
};

/* "name:line:column: ..." of the node at hand; returns false. */
bool jinja_fail(struct jinja_run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* After a maker gave NULL: which bound was met. */
bool jinja_no_memory(struct jinja_run *r);
/* Counts work; false past the limit. */
bool jinja_step(struct jinja_run *r, int64_t n);
/* One level deeper; false past the limit. Comes with jinja_leave, also on failure. */
bool jinja_enter(struct jinja_run *r);
void jinja_leave(struct jinja_run *r);

/* *out = that; fails on NULL. */
bool give_string(struct jinja_run *r, const struct value_string *s, struct value *out);
bool give_list(struct jinja_run *r, struct value_list *list, struct value *out);
bool give_tuple(struct jinja_run *r, struct value_list *list, struct value *out);
bool give_text(struct jinja_run *r, const struct value_text *t, struct value *out);
/* Undefined with that message, or of attribute `name` of `of` (NULL: variable `name`). */
bool give_undefined_hint(struct jinja_run *r, const char *hint, struct value *out);
bool give_undefined(struct jinja_run *r, const struct value *of, struct value name,
                    struct value *out);
/* jinja2's message for using it: "'x' is undefined", "'dict object' has no attribute 'x'". */
bool fail_undefined(struct jinja_run *r, const struct value *v);

/* Python's name of the type: "str", "NoneType", ... */
const char *value_type_name(const struct value *v);

/* Arguments by position and name. `names` ends with NULL; one that starts with '/' is by position
 * only. What is not given is MISSING in out[]; the first n_required must be given. */
bool args_bind(struct jinja_run *r, const char *function, const struct call_args *args,
               const char *const names[], size_t n_required, struct value out[]);

/* Of a bound argument, when it is given: an int, a string; `what` names it in the message. */
bool arg_int(struct jinja_run *r, const struct value *v, const char *what, int64_t *out);
bool arg_string(struct jinja_run *r, const struct value *v, const char *what,
                const struct value_string **out);
/* Its truth, or `otherwise`. */
bool arg_truth(const struct value *v, bool otherwise);

#endif
