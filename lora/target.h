/* Which modules get an adapter, and of what rank: PEFT's rules (its
 * tuners_utils.check_target_module_exists and other.get_pattern_key, read in 0.18 and 0.21), made
 * strict: what matches nothing is an error.
 *
 *     struct lora_choice *choices = calloc(n, sizeof *choices);
 *     if (!lora_choose(&config, modules, n, choices, err)) ...
 *     struct lora_summary summary;
 *     if (!lora_summarize(modules, n, choices, &summary, err)) ...
 */
#ifndef LORA_TARGET_H
#define LORA_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "lora/config.h"
#include "lora/module.h"

/* The recipe keys that messages name (axolotl's where it has one). */
#define LORA_KEY_TARGETS "lora_target_modules"
#define LORA_KEY_EXCLUDE "lora_exclude_modules"
#define LORA_KEY_LAYERS "lora_layers_to_transform"
#define LORA_KEY_RSLORA "use_rslora"
#define LORA_KEY_RANK_PATTERN "rank_pattern"
#define LORA_KEY_ALPHA_PATTERN "alpha_pattern"

enum { LORA_MAX_RANK = 1 << 20 };

struct lora_choice {
    bool on;
    int64_t r;
    double alpha, scale; /* scale = alpha / r, or alpha / sqrt(r) with rsLoRA */
};

/* Fills out[0..n).
 *
 * An entry of target_modules or exclude_modules matches a path that equals it or ends with "." and
 * it; a regex must match the whole path; all_linear takes every linear but lm_head and the
 * embedding; without any of them the default is in_proj, x_proj, out_proj, q/k/v/o_proj and
 * gate/up/down_proj, experts included (dt_proj and the router are left out: transformers 5 does not
 * apply their adapters). Excluding comes first. layers_to_transform keeps the modules of the layers
 * listed; as in PEFT, an entry that is a module's whole path is taken whatever the layers say. A
 * rank_pattern or alpha_pattern key applies where the path matches (.*\.)?(key)$, the first such
 * key in order.
 *
 * An entry, regex, key or layer that matches nothing is an error (ERR_RECIPE) with the nearest
 * name, whose place is the recipe's key ("lora_target_modules: 'q_porj' matches no module; did you
 * mean 'q_proj'?"). */
bool lora_choose(const struct lora_config *config, const struct lora_module *modules, int64_t n,
                 struct lora_choice *out, struct err *err);

/* alpha / r, or alpha / sqrt(r). */
double lora_scale(const struct lora_config *config, int64_t r, double alpha);

/* Whether path equals suffix or ends with "." and suffix: PEFT's rule for lists. */
bool lora_suffix_matches(const char *path, const char *suffix);

/* "q_proj", ..., "router", "embed_tokens", "lm_head": the last segment of a path. */
const char *lora_kind_name(enum lora_kind kind);

enum lora_block {
    LORA_BLOCK_ATTENTION,
    LORA_BLOCK_MAMBA,
    LORA_BLOCK_MLP,
    LORA_BLOCK_EXPERTS,
    LORA_BLOCK_ROUTER,
    LORA_BLOCK_EMBEDDING,
    LORA_BLOCK_HEAD,
    LORA_BLOCK_COUNT,
};

/* "attention", "mamba", "mlp", "experts", "router", "embedding", "head". */
const char *lora_block_name(enum lora_block block);
enum lora_block lora_block_of(const struct lora_module *module);

/* What is adapted, of what there is. */
struct lora_count {
    int64_t n_module, n_adapted;
    int64_t n_param;      /* trained */
    int64_t r_min, r_max; /* 0 when nothing is adapted */
};

struct lora_summary {
    struct lora_count block[LORA_BLOCK_COUNT];
    struct lora_count kind[LORA_BLOCK_COUNT]
                          [LORA_KIND_COUNT]; /* the same, by kind within the block */
    struct lora_count total;
};

/* Errors: a rank so large that the parameters cannot be counted. */
bool lora_summarize(const struct lora_module *modules, int64_t n, const struct lora_choice *choices,
                    struct lora_summary *out, struct err *err);

/* Trained parameters of one module: r * (in + out); false when that does not fit. */
bool lora_param_count(const struct lora_module *module, int64_t r, int64_t *out);

#endif
