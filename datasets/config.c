#include "datasets/config.h"

#include <stdlib.h>

void data_source_free(struct data_source *source)
{
    free(source->path);
    free(source->field_text);
    free(source->field_prompt);
    free(source->field_completion);
    free(source->field_input_ids);
    free(source->field_labels);
    *source = (struct data_source){ 0 };
}

static void free_sources(struct data_source *sources, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        data_source_free(&sources[i]);
    free(sources);
}

void data_config_free(struct data_config *config)
{
    free_sources(config->train, config->n_train);
    free_sources(config->validation, config->n_validation);
    *config = (struct data_config){ 0 };
}
