/* Runs as one HTML page that needs nothing but itself: curves, time per block, the recipe with the
 * origin of each value, what was adapted, data, samples, events; of several runs, their curves over
 * one another and where their recipes differ.
 *
 *     struct report report = { 0 };
 *     struct text page = { 0 };
 *     ok = report_open(&report, dirs, n_dir, err) && report_page(&report, &page, err);
 *     ... write page ...
 *     text_free(&page);
 *     report_close(&report);
 */
#ifndef FINETUNE_REPORT_REPORT_H
#define FINETUNE_REPORT_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "finetune/report/settings.h"
#include "finetune/train/history.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

struct report_run {
    char *name; /* the folder's own, or its whole path where another has the same */
    struct history history;
    struct settings settings; /* of recipe.yaml; none where it is not there */
};

struct report {
    struct report_run *runs;
    int64_t n_run;
};

/* Reads the folders; after a failure there is nothing to close. */
bool report_open(struct report *r, const char *const *dirs, int64_t n_dir, struct err *err);
void report_close(struct report *r);

/* Appends the page. Whatever the runs hold, it is well-formed and no part of it is code of theirs.
 */
bool report_page(const struct report *r, struct text *page, struct err *err);

/* What the page sums up, for scripts: a list of runs, best first, and the keys in which they
 * differ. NULL when memory is out. */
json_t *report_facts(const struct report *r);

#endif
