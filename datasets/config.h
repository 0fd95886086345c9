/* Which records to train on, and how a step is made of them. Strings and lists are owned;
 * data_config_free accepts a zeroed struct. */
#ifndef DATASETS_CONFIG_H
#define DATASETS_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

enum data_type {
    DATA_AUTO,       /* guessed from the first record, and said so */
    DATA_TEXT,       /* {text} */
    DATA_COMPLETION, /* {prompt, completion} */
    DATA_INPUT_IDS,  /* {input_ids, labels?} */
};

/* What happens to a document of more than sequence_len tokens. */
enum excess_strategy {
    EXCESS_TRUNCATE,
    EXCESS_SPLIT,
    EXCESS_DROP,
    EXCESS_RAISE,
};

struct data_source {
    char *path;
    enum data_type type;
    char *field_text, *field_prompt, *field_completion, *field_input_ids, *field_labels;
};

struct data_config {
    struct data_source *train;
    int64_t n_train;
    struct data_source *validation; /* files of their own; excludes val_set_size */
    int64_t n_validation;
    double val_set_size; /* below 1: a share of the documents; from 1: their number; 0: none */
    int64_t sequence_len;
    enum excess_strategy excess;
    bool train_on_inputs, sample_packing, shuffle;
    int64_t micro_batch_size, gradient_accumulation_steps;
    uint64_t seed;
};

void data_source_free(struct data_source *source);
void data_config_free(struct data_config *config);

#endif
