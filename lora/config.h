/* What to adapt and how: PEFT's LoraConfig, as far as we train it. Strings and lists are owned.
 * lora_config_free accepts a zeroed struct. */
#ifndef LORA_CONFIG_H
#define LORA_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

/* rank_pattern / alpha_pattern: a key applies when the module path matches (.*\.)?(key)$; first hit wins. */
struct lora_pattern {
    char *key;
    double value;
};

struct lora_config {
    int64_t r;
    double alpha, dropout;
    bool use_rslora;
    /* Exactly one way of naming targets is in force: a list of suffixes, or a full-match regex, or
     * all_linear; none of them: the Jamba-aware default. */
    char **target_modules;
    int64_t n_target;
    char *target_regex;
    bool all_linear;
    char **exclude_modules; /* suffixes; or exclude_regex */
    int64_t n_exclude;
    char *exclude_regex;
    int64_t *layers_to_transform;
    int64_t n_layer_to_transform;
    struct lora_pattern *rank_pattern, *alpha_pattern;
    int64_t n_rank_pattern, n_alpha_pattern;
};

void lora_config_free(struct lora_config *config);

#endif
