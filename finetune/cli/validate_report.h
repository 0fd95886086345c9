/* What validate has to say: as it goes along on stdout, or gathered for one JSON object.
 *
 *     struct validate_report report = { .json = as_json ? json_object() : NULL };
 *     validate_put_model(&report, name, &config);
 *     ...
 *     code = validate_report_end(&report, recipe_path, code);
 */
#ifndef FINETUNE_CLI_VALIDATE_REPORT_H
#define FINETUNE_CLI_VALIDATE_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "datasets/batch.h"
#include "finetune/model/config.h"
#include "finetune/train/loop.h"

struct validate_report {
    json_t *json; /* NULL: text on stdout */
    bool failed;  /* memory ran out: the object lacks something */
};

/* Warnings and faults go to stderr, too. Returns the fault's exit code. */
int validate_put_fault(struct validate_report *r, const struct err *err);

/* What reading the recipe had to say. */
void validate_put_recipe(struct validate_report *r, const struct recipe_report *recipe);

void validate_put_warnings(struct validate_report *r, const struct text *lines);

void validate_put_model(struct validate_report *r, const char *name, const struct jamba_config *m);

/* set: "data" or "validation". */
void validate_put_source(struct validate_report *r, const char *set,
                         const struct data_source *source, const struct document_report *report);

/* Some of the documents of a set; part: "training" or "validation". */
void validate_put_part(struct validate_report *r, const char *part, const struct document_set *set,
                       const int64_t *docs, int64_t n);
void validate_put_steps(struct validate_report *r, int64_t n_step, int64_t warmup,
                        const struct batch_bounds *bounds);

/* What is adapted. */
bool validate_put_targets(struct validate_report *r, const struct trainer *t, struct err *err);
void validate_put_plan(struct validate_report *r, const struct trainer *t);

/* The last line, or the object. Returns `code`, or that of a failure to print when it is 0. */
int validate_report_end(struct validate_report *r, const char *recipe_path, int code);

#endif
