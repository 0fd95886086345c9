/* The sections of a page. */
#ifndef FINETUNE_REPORT_SECTIONS_H
#define FINETUNE_REPORT_SECTIONS_H

#include "finetune/report/report.h"

/* What a run comes to. Numbers that it does not have are NaN, steps -1. */
struct summary {
    int64_t step;                  /* the last one */
    double seconds;                /* of steps and evaluations */
    double tokens, trained_tokens; /* seen */
    double tokens_per_second;      /* over all steps */
    double memory_bytes;           /* the most */
    double loss;                   /* of the last step */
    double eval_loss, best_loss;   /* the last, the lowest */
    int64_t eval_step, best_step;  /* theirs */
    int64_t n_skipped;             /* steps not applied */
    double blocks[PROFILE_N];      /* seconds, of the steps that say */
    int64_t n_block_step;          /* how many do */
};

struct summary summary_of(const struct history *h);

/* Name of a block as people say it. */
const char *summary_block_name(enum profile_block block);

/* The runs, best first: by the lowest validation loss, then those without one by their last loss.
 * What sorted[0 .. n_run) points to stays r's. False: out of memory. */
bool summary_sort(const struct report *r, struct report_run *sorted);

/* Keys whose values are not the same in all runs that have a recipe; output_dir is left out, it
 * always differs. The texts belong to the runs; the caller frees the list. NULL: out of memory. */
const char **summary_different_keys(const struct report *r, int64_t *n);

/* Curves: of one run with its marks, of several over one another. False: out of memory. */
bool sections_curves(const struct report *r, struct text *page);

/* Of one run. */
void sections_head(const struct report_run *run, struct text *page);
void sections_blocks(const struct history *h, struct text *page);
void sections_facts(const struct history *h, struct text *page); /* adapted, data, the run */
void sections_samples(const struct history *h, struct text *page);
void sections_settings(const struct settings *s, struct text *page);
void sections_events(const struct history *h, struct text *page);

/* Of several, sorted: the head, the table of runs, the keys that differ. False: out of memory. */
bool sections_compare(const struct report *r, struct text *page);

#endif
