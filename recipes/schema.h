/* The table of recipe keys, and the keys of other trainers that are ignored or refused. */
#ifndef RECIPES_SCHEMA_H
#define RECIPES_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/core/text.h"
#include "recipes/node.h"

enum field_kind {
    FIELD_BOOL,      /* bool */
    FIELD_INT,       /* int64_t */
    FIELD_REAL,      /* double */
    FIELD_BYTES,     /* int64_t, written with a unit */
    FIELD_EVERY,     /* struct recipe_every */
    FIELD_ENUM,      /* an enum, stored as int */
    FIELD_STRING,    /* char * */
    FIELD_PATH,      /* char *, resolved */
    FIELD_MODEL,     /* char *: a folder, a hub name or random:CONFIG.JSON */
    FIELD_TEMPLATE,  /* char *: a path, resolved, or the name of a template of ours */
    FIELD_DATE,      /* char * */
    FIELD_RESUME,    /* char *: "auto" or a path, resolved; false is NULL */
    FIELD_STRINGS,   /* char **, their number at n_offset */
    FIELD_VARIABLES, /* json_t *: an object */
    /* the rest fill several members: the offset is that of the struct */
    FIELD_TARGETS,  /* struct lora_config: target_modules, target_regex or all_linear */
    FIELD_EXCLUDES, /* ... exclude_modules or exclude_regex */
    FIELD_LAYERS,   /* ... layers_to_transform */
    FIELD_RANKS,    /* ... rank_pattern */
    FIELD_ALPHAS,   /* ... alpha_pattern */
    FIELD_TRAIN,    /* struct data_config: train */
    FIELD_VALIDATION,
};

enum field_rule {
    RULE_ABOVE_LOW = 1,      /* low itself is out */
    RULE_BELOW_HIGH = 2,     /* high itself is out */
    RULE_SHARE_OR_COUNT = 4, /* a share below 1, a whole number from 1 */
    RULE_NOT_EMPTY = 8,      /* an explicit null is refused */
    RULE_EMPTY_IS_ZERO = 16, /* an explicit null is 0, not the default */
};

/* One spelling of an enum's value; the first with a value is the one we write. */
struct enum_name {
    const char *name;
    int value;
    const char *note;    /* accepted, and this is said */
    const char *refusal; /* not accepted: the reason and the way out */
};

/* What a value spelled under an alias means under the key. */
struct value_map {
    const char *from, *to;
};

extern const struct value_map value_map_inverted[];

struct field_alias {
    const char *name;
    const struct value_map *map; /* NULL: the same values */
};

struct field {
    const char *section; /* on the first key of a section */
    const char *name;
    enum field_kind kind;
    unsigned rules;
    size_t offset, n_offset;
    double low, high;
    const struct enum_name *names;     /* of a FIELD_ENUM */
    const char *zero;                  /* a word that stands for 0 */
    const char *initial;               /* the default as YAML text, NULL: not set */
    const struct field_alias *aliases; /* up to name NULL */
    const char *hint;                  /* a way out, appended to "expected ..." */
    const char *help;
};

/* A key of another trainer. A name may end in '*'. */
struct foreign {
    const char *name;
    const char *refusal; /* the reason and the way out; NULL: ignored */
    const char *reason;  /* said when the key is ignored while set to something */
    const char *off;     /* words, besides null, false, 0 and empty, that ask for nothing */
};

struct schema {
    const struct field *fields;
    int n_field;
    const struct foreign *foreign; /* up to name NULL */
};

extern const struct schema recipe_schema; /* offsets into struct recipe */
extern const struct schema
    source_schema; /* an entry of datasets: offsets into struct data_source */

/* For writing the tables. */
#define SCHEMA_ALIASES(...) ((const struct field_alias[]){ __VA_ARGS__, { NULL, NULL } })
#define SCHEMA_NAMES(...) ((const struct enum_name[]){ __VA_ARGS__, { NULL, 0, NULL, NULL } })

/* By name; by alias (*alias is then set, else NULL); or NULL. */
const struct field *schema_find(const struct schema *schema, const char *name,
                                const struct field_alias **alias);
const struct foreign *schema_find_foreign(const struct schema *schema, const char *name);

/* The key nearest to a misspelled one, or NULL. */
const char *schema_nearest(const struct schema *schema, const char *name);

/* Whether a foreign key's value asks for nothing. */
bool foreign_is_off(const struct foreign *foreign, const struct node *value);

/* "a whole number from 1 to 64", "one of 'linear', 'cosine'": what the key takes. */
void field_expectation(const struct field *field, struct text *out);

/* The name we write for an enum's value. */
const char *field_enum_name(const struct field *field, int value);

#endif
