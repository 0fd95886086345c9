/* A run, as one YAML file of flat keys describes it.
 *
 *     struct recipe recipe = { 0 };
 *     struct recipe_report report = { 0 };
 *     ok = recipe_load("x.yaml", overrides, n_override, RECIPE_NEED_TRAIN, &recipe, &report);
 *     ... print report.errors, report.notes; on failure exit with report.code ...
 *     recipe_free(&recipe);
 *     recipe_report_free(&report);
 *
 * The keys, their defaults, ranges, aliases and help stand in one table (schema.c); reading,
 * overriding, `explain`, the dump and the README's option table all walk it.
 */
#ifndef RECIPES_RECIPE_H
#define RECIPES_RECIPE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "datasets/config.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "lora/config.h"
#include "recipes/report.h"

enum recipe_adapter { ADAPTER_LORA };
enum recipe_optimizer { OPTIMIZER_ADAMW };
enum recipe_scheduler {
    SCHEDULER_CONSTANT,
    SCHEDULER_CONSTANT_WITH_WARMUP,
    SCHEDULER_LINEAR,
    SCHEDULER_COSINE,
};
enum recipe_recompute {
    CHECKPOINTING_AUTO,
    CHECKPOINTING_NONE,
    CHECKPOINTING_SCAN,
    CHECKPOINTING_LAYER
};
enum recipe_device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
enum recipe_precision { PRECISION_AUTO, PRECISION_FP32, PRECISION_BF16 };

/* How often: after every so many steps (a share of all below 1), or after so much time; neither:
 * never. */
struct recipe_every {
    double steps, seconds;
};

/* Paths are resolved: ready to open from the current folder. */
struct recipe {
    char *path; /* of the recipe itself, NULL without one */
    char *base_model;
    char *lora_model_dir; /* NULL: a new adapter */
    char *output_dir;
    enum recipe_adapter adapter;
    struct lora_config lora;
    bool lora_target_linear; /* how lora.all_linear was asked for */
    struct data_config data; /* holds micro_batch_size, accumulation and seed, too */
    enum recipe_optimizer optimizer;
    double learning_rate, loraplus_lr_ratio, loraplus_lr_embedding; /* ratio 0: no LoRA+ */
    enum recipe_scheduler lr_scheduler;
    int64_t warmup_steps; /* above 0 it wins; else ceil(warmup_ratio * steps) */
    double warmup_ratio;
    double weight_decay, max_grad_norm, adam_beta1, adam_beta2, adam_epsilon;
    double num_epochs;
    int64_t max_steps; /* 0: num_epochs decides */
    double router_aux_loss_coef;
    int64_t max_nonfinite_steps;
    double eval_steps;       /* below 1: a share of all steps; 0: none */
    int64_t evals_per_epoch; /* 0: none. Neither: before the first step and at the end only */
    int64_t early_stopping_patience; /* evaluations without a better one; 0: no such stop */
    bool load_best;                  /* the adapter at the end is the best one */
    char **sample_prompts;           /* texts to go on from at every evaluation */
    int64_t n_sample_prompt, sample_max_tokens;
    int64_t logging_steps;
    struct recipe_every save_steps;
    int64_t save_total_limit;     /* checkpoints kept; 0: all */
    char *resume_from_checkpoint; /* NULL: a new run; "auto": the newest there is; else a folder */
    bool overwrite_output_dir;    /* a new run may remove the checkpoints of an earlier one */
    int64_t self_check_steps;     /* every so many steps one is computed twice; 0: none */
    uint64_t seed;                /* the same as data.seed */
    enum recipe_device device;
    enum recipe_precision precision;
    enum recipe_recompute gradient_checkpointing;
    int64_t chunk_tokens;  /* 0: chosen by the plan */
    int64_t memory_budget; /* bytes; 0: the device's memory */
    int64_t threads;       /* 0: all processors */
    bool deterministic;    /* false: a GPU may add in any order */
    char *gemm_algorithms; /* a file of bench --tune, or NULL */
    char **origin;         /* per key of the table: where it was set, NULL at its default */
    int64_t n_origin;
};

/* Keys that must be there. */
enum recipe_need {
    RECIPE_NEED_NOTHING,
    RECIPE_NEED_MODEL, /* base_model */
    RECIPE_NEED_TRAIN, /* base_model and datasets */
};

/* Reads path (NULL: no file), applies the overrides ("key=value", "datasets.0.path=x", "~key") in
 * order, and checks everything. False when report->errors has any; then *recipe is zeroed. Relative
 * paths are relative to the recipe's folder; those of overrides to the current folder. */
bool recipe_load(const char *path, const char *const *overrides, int n_override,
                 enum recipe_need need, struct recipe *recipe, struct recipe_report *report);
void recipe_free(struct recipe *recipe);

/* Where a key was set ("x.yaml:5:3", "command line: lora_r=4"), or NULL when its default is in
 * force. */
const char *recipe_origin(const struct recipe *recipe, const char *key);

/* A message that begins with a key ("lora_target_modules: 'q_porj' ...") gets the place where the
 * recipe sets it. */
void recipe_add_place(const struct recipe *recipe, struct err *err);

/* Value, origin and help of one key (an alias will do), or of every key when it is NULL. A key of
 * other trainers is explained as ignored or refused; an unknown one is an error. */
bool recipe_explain(const struct recipe *recipe, const char *key, struct text *out,
                    struct err *err);

/* The same as JSON: an object, or a list of them; NULL on failure. */
json_t *recipe_explain_json(const struct recipe *recipe, const char *key, struct err *err);

/* The resolved recipe as YAML, the origin of each value in a comment, paths absolute: loads again,
 * from any folder, to the same recipe. */
void recipe_dump(const struct recipe *recipe, struct text *out);

/* The keys in the order of the table, and one's value as YAML. */
int recipe_n_key(void);
const char *recipe_key(int i);
void recipe_value(const struct recipe *recipe, int i, struct text *out);

/* Whether two recipes say the same of a key, paths compared from the root; false, too, when memory
 * is out. */
bool recipe_same_value(const struct recipe *a, const struct recipe *b, int i);

/* All keys as Markdown tables: the README's section between "<!-- options -->" and "<!-- /options
 * -->". */
void recipe_option_table(struct text *out);

#endif
