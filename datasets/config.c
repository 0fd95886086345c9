#include "datasets/config.h"

#include <stdlib.h>
#include <string.h>

void data_source_free(struct data_source *source)
{
    free(source->path);
    free(source->field_text);
    free(source->field_prompt);
    free(source->field_completion);
    free(source->field_input_ids);
    free(source->field_labels);
    free(source->field_messages);
    free(source->field_tools);
    free(source->field_documents);
    free(source->field_system);
    free(source->field_role);
    free(source->field_content);
    free(source->field_train);
    free(source->field_instruction);
    free(source->field_input);
    free(source->field_output);
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
    free(config->chat_template);
    free(config->chat_template_date);
    json_decref(config->chat_template_kwargs);
    *config = (struct data_config){ 0 };
}

bool data_is_own_template(const char *name)
{
    return strcmp(name, "jamba") == 0 || strcmp(name, "chatml") == 0;
}

bool data_is_reserved_variable(const char *name)
{
    static const char *const names[] = { "messages", "tools", "documents",
                                         "add_generation_prompt" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

/* Exactly n digits. */
static bool read_digits(const char **s, int n, int *out)
{
    *out = 0;
    for (int i = 0; i < n; i++, (*s)++) {
        if (**s < '0' || **s > '9')
            return false;
        *out = *out * 10 + (**s - '0');
    }
    return true;
}

static bool read_number(const char **s, char before, int n, int *out)
{
    if (**s != before)
        return false;
    (*s)++;
    return read_digits(s, n, out);
}

bool data_date_read(const char *text, struct tm *out)
{
    struct tm t = { 0 };
    const char *s = text;
    int year = 0, month = 0;
    if (!read_digits(&s, 4, &year) || !read_number(&s, '-', 2, &month) ||
        !read_number(&s, '-', 2, &t.tm_mday))
        return false;
    const char between = *s == 'T' ? 'T' : ' ';
    if (*s != '\0' &&
        (!read_number(&s, between, 2, &t.tm_hour) || !read_number(&s, ':', 2, &t.tm_min)))
        return false;
    if (*s != '\0' && (!read_number(&s, ':', 2, &t.tm_sec) || *s != '\0'))
        return false;
    t.tm_year = year - 1900;
    t.tm_mon = month - 1;
    /* timegm moves a day that is not there, 2025-02-30, on to one that is. */
    struct tm same = t;
    const time_t seconds = timegm(&same);
    if (same.tm_mon != t.tm_mon || same.tm_mday != t.tm_mday || same.tm_hour != t.tm_hour ||
        same.tm_min != t.tm_min || same.tm_sec != t.tm_sec || same.tm_year != t.tm_year)
        return false;
    return gmtime_r(&seconds, out) != NULL;
}
