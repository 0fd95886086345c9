/* What the parts of recipe_load share: tree -> struct recipe. */
#ifndef RECIPES_LOAD_H
#define RECIPES_LOAD_H

#include <jansson.h>

#include "recipes/node.h"
#include "recipes/recipe.h"
#include "recipes/schema.h"

struct load {
    const char *path; /* of the recipe; NULL: only a command line */
    char *folder;     /* its folder: what its relative paths are relative to */
    struct recipe *recipe;
    struct recipe_report *report;
    struct node *root;
    struct text ignored; /* names of the ignored keys, comma-separated */
};

/* An error or note at a value, or at its key. */
void load_error(struct load *load, const struct node *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void load_error_at_key(struct load *load, const struct node *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void load_note_at_key(struct load *load, const struct node *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "'name' is 'value'; expected ...[; hint]" */
void load_expected(struct load *load, const struct field *field, const char *name,
                   const struct node *value);

void load_unknown_key(struct load *load, const struct schema *schema, const struct node *entry,
                      const char *prefix);

/* Renames aliases in a mapping to their keys and maps their values; an entry that clashes goes,
 * with an error. `prefix` starts the names in messages: "" or "datasets.0.". */
void load_canonicalise(struct load *load, const struct schema *schema, struct node *map,
                       const char *prefix);

/* The defaults of a schema's fields into base; then every entry of a canonical mapping. */
void load_defaults(struct load *load, const struct schema *schema, void *base);
void load_fields(struct load *load, const struct schema *schema, const struct node *map,
                 const char *prefix, void *base);

/* Reads one value into base + field->offset; false (after an error) changes nothing. values.c */
bool load_value(struct load *load, const struct field *field, const char *name,
                const struct node *value, void *base);

/* The lists and mappings of struct lora_config. lists.c */
bool load_targets(struct load *load, const struct field *field, const struct node *value,
                  struct lora_config *lora);
bool load_excludes(struct load *load, const struct field *field, const struct node *value,
                   struct lora_config *lora);
bool load_layers(struct load *load, const struct field *field, const struct node *value,
                 struct lora_config *lora);
bool load_patterns(struct load *load, const struct field *field, const struct node *value,
                   struct lora_config *lora);

/* Texts, or a single one. lists.c */
bool load_strings(struct load *load, const struct field *field, const struct node *value,
                  char ***list, int64_t *n);

/* chat_template_kwargs. variables.c */
bool load_variables(struct load *load, const struct field *field, const char *name,
                    const struct node *value, json_t **slot);

/* datasets and test_datasets. sources.c */
bool load_sources(struct load *load, const struct field *field, const struct node *value,
                  struct data_config *data);

/* One "key=value" or "~key" on the canonical tree. override.c */
void load_override(struct load *load, const char *argument);

/* What no key can tell alone. check.c */
void load_check(struct load *load, enum recipe_need need);

/* Where a path of this value's origin leads, from the current folder; caller frees. */
char *load_resolve(const struct load *load, const struct node *value, const char *path);

#endif
