/* Which records to train on, and how a step is made of them. Strings and lists are owned;
 * data_config_free accepts a zeroed struct. */
#ifndef DATASETS_CONFIG_H
#define DATASETS_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum data_type {
    DATA_AUTO,       /* guessed from the first record, and said so */
    DATA_TEXT,       /* {text} */
    DATA_COMPLETION, /* {prompt, completion} */
    DATA_INPUT_IDS,  /* {input_ids, labels?} */
    DATA_CHAT,       /* {messages, tools?, documents?}, {conversations} */
    DATA_ALPACA,     /* {instruction, input?, output}: a conversation, too */
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
    /* Names of fields; NULL: the usual ones. */
    char *field_text, *field_prompt, *field_completion, *field_input_ids, *field_labels;
    char *field_messages, *field_tools, *field_documents, *field_system;
    char *field_role, *field_content, *field_train; /* of a message */
    char *field_instruction, *field_input, *field_output;
};

struct data_config {
    struct data_source *train;
    int64_t n_train;
    struct data_source *validation; /* files of their own; excludes val_set_size */
    int64_t n_validation;
    double val_set_size; /* below 1: a share of the documents; from 1: their number; 0: none */
    int64_t sequence_len;
    enum excess_strategy excess;
    bool train_on_inputs, train_on_last_turn_only, train_on_reasoning;
    char *chat_template;          /* a file, or the name of one of ours; NULL: the checkpoint's */
    json_t *chat_template_kwargs; /* an object, or NULL */
    char *chat_template_date;     /* what strftime_now() tells; NULL: DATA_DATE */
    bool sample_packing, shuffle;
    int64_t micro_batch_size, gradient_accumulation_steps;
    uint64_t seed;
};

/* What a chat template's strftime_now() tells when nothing else is set. */
#define DATA_DATE "2025-01-01"

/* A date, "2025-01-01" or "2025-01-01 18:30:00" (or T between, or no seconds), as a time with all
 * fields set; false: it is none. */
bool data_date_read(const char *text, struct tm *out);

/* Whether a chat template of this name is part of the program (template.h). */
bool data_is_own_template(const char *name);

/* Whether a template's variable of this name cannot be set: messages, tools, ... */
bool data_is_reserved_variable(const char *name);

void data_source_free(struct data_source *source);
void data_config_free(struct data_config *config);

#endif
