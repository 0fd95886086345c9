/* chat_template_kwargs: any YAML as JSON, as a template sees it. */
#include <math.h>

#include "datasets/config.h"
#include "recipes/load.h"

static json_t *scalar(const struct node *value)
{
    bool flag = false;
    int64_t number = 0;
    double real = 0;
    if (!value->quoted && node_bool(value, &flag))
        return json_boolean(flag);
    if (!value->quoted && node_int(value, &number))
        return json_integer(number);
    if (!value->quoted && node_real(value, &real) && isfinite(real)) /* else it is a word */
        return json_real(real);
    return json_string(value->text);
}

/* NULL: memory is out. */
static json_t *any(const struct node *value)
{
    if (value->kind == NODE_NULL)
        return json_null();
    if (value->kind == NODE_SCALAR)
        return scalar(value);
    const bool is_list = value->kind == NODE_LIST;
    json_t *out = is_list ? json_array() : json_object();
    for (int64_t i = 0; out != NULL && i < value->n_child; i++) {
        json_t *item = any(value->child[i]);
        if (item == NULL || (is_list ? json_array_append_new(out, item)
                                     : json_object_set_new(out, value->child[i]->key, item)) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

bool load_variables(struct load *load, const struct field *field, const char *name,
                    const struct node *value, json_t **slot)
{
    if (value->kind != NODE_MAP) {
        load_expected(load, field, name, value);
        return false;
    }
    for (int64_t i = 0; i < value->n_child; i++) {
        if (data_is_reserved_variable(value->child[i]->key)) {
            load_error_at_key(load, value->child[i],
                              "'%s.%s' cannot be set: it is what each record says", name,
                              value->child[i]->key);
            return false;
        }
    }
    json_t *out = any(value);
    if (out == NULL) {
        report_no_memory(load->report);
        return false;
    }
    json_decref(*slot);
    *slot = out;
    return true;
}
