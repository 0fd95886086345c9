#include "lora/config.h"

#include <stdlib.h>

static void free_strings(char **list, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

static void free_patterns(struct lora_pattern *list, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free(list[i].key);
    free(list);
}

void lora_config_free(struct lora_config *config)
{
    free_strings(config->target_modules, config->n_target);
    free_strings(config->exclude_modules, config->n_exclude);
    free(config->target_regex);
    free(config->exclude_regex);
    free(config->layers_to_transform);
    free_patterns(config->rank_pattern, config->n_rank_pattern);
    free_patterns(config->alpha_pattern, config->n_alpha_pattern);
    *config = (struct lora_config){ 0 };
}
