/* jambatune inspect: what a path holds. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/inspect.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "lora/format_peft.h"

const char cmd_inspect_help[] =
    "usage: jambatune inspect PATH [--json]\n"
    "\n"
    "Shows what is in PATH, by its headers; nothing of size is loaded. PATH is\n"
    "  a checkpoint's folder      its config, layers, parameters, tensors by type,\n"
    "                             shards and tokenizer; then every tensor's name,\n"
    "                             type and shape is compared with the config\n"
    "  a hub name                 the same, from the local Hugging Face cache\n"
    "  random:CONFIG.JSON         the same, from a config alone\n"
    "  a PEFT adapter's folder    its config, and per block of the model the adapted\n"
    "                             modules, ranks and parameters, with the largest\n"
    "                             change of a module's matrix: the Frobenius norm of\n"
    "                             scale * B A (0: untrained)\n"
    "  a .safetensors file        each tensor's name, type and shape\n"
    "\n"
    "Options:\n"
    "  --json   print one JSON object\n"
    "\n"
    "The exit code is 65 when the tensors are not those that the config asks for.\n"
    "\n"
    "Examples:\n"
    "  jambatune inspect ./jamba\n"
    "  jambatune inspect out/best\n"
    "  jambatune inspect --json adapter_model.safetensors | jq '.tensors[].name'\n";

/* ---- tensors ---- */

void inspect_add_tensor(struct inspect_types *types, const struct safetensors_tensor *tensor)
{
    const size_t size = dtype_size(tensor->dtype);
    types->n_tensor[tensor->dtype]++;
    types->n_byte[tensor->dtype] += (int64_t)tensor->bytes;
    types->n_value[tensor->dtype] += (int64_t)(tensor->bytes / size);
}

json_t *inspect_types_table(const struct inspect_types *types)
{
    json_t *rows = json_array();
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (types->n_tensor[d] > 0)
            json_array_append_new(rows, json_pack("{s:s, s:I, s:I, s:I}", "type",
                                                  dtype_name((enum dtype)d), "tensors",
                                                  (json_int_t)types->n_tensor[d], "values",
                                                  (json_int_t)types->n_value[d], "bytes",
                                                  (json_int_t)types->n_byte[d]));
    }
    return rows;
}

static json_t *shape_of(const struct safetensors_tensor *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dim; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->dims[i]));
    return shape;
}

json_t *inspect_tensors(const char *path, struct err *err)
{
    struct safetensors st = { 0 };
    if (!safetensors_open(path, &st, err))
        return NULL;
    struct inspect_types types = { 0 };
    json_t *rows = json_array();
    for (int64_t i = 0; i < st.n_tensor; i++) {
        const struct safetensors_tensor *t = &st.tensors[i];
        inspect_add_tensor(&types, t);
        json_array_append_new(rows, json_pack("{s:s, s:s, s:o}", "name", t->name, "type",
                                              dtype_name(t->dtype), "shape", shape_of(t)));
    }
    json_t *facts = json_pack("{s:s, s:o, s:I, s:o, s:o}", "kind", "safetensors", "path",
                              cli_json_string(path), "bytes", (json_int_t)st.map.size, "types",
                              inspect_types_table(&types), "tensors", rows);
    safetensors_close(&st);
    if (facts == NULL)
        err_no_memory(err, path);
    return facts;
}

/* ---- the command ---- */

static json_t *inspect_folder(const char *path, struct err *err)
{
    char *config = file_join(path, PEFT_CONFIG_NAME);
    if (config == NULL) {
        err_no_memory(err, path);
        return NULL;
    }
    const bool is_adapter = file_exists(config);
    free(config);
    return is_adapter ? inspect_adapter(path, err) : inspect_checkpoint(path, err);
}

static json_t *inspect(const char *path, struct err *err)
{
    struct stat st;
    const bool is_there = stat(path, &st) == 0;
    if (!is_there && !file_exists(path))
        return inspect_checkpoint(path, err); /* random:, a hub name, or its error */
    if (!is_there) {
        err_set(err, file_error(ERR_NO_INPUT), "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (S_ISDIR(st.st_mode))
        return inspect_folder(path, err);
    if (text_ends_with(path, ".safetensors"))
        return inspect_tensors(path, err);
    err_set(err, ERR_USAGE,
            "%s: is neither a folder nor a .safetensors file; for a config alone say random:%s",
            path, path);
    return NULL;
}

int cmd_inspect(int argc, char **argv)
{
    bool as_json = false;
    const struct cli_option options[] = { { "json", NULL, NULL, &as_json } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 1, &words, &err) ||
        !cli_expect_no_overrides(&words, &err) ||
        !cli_expect_args(&words, 1, 1, "jambatune inspect PATH [--json]", &err))
        return cli_fail(&err);
    json_t *facts = inspect(words.args[0], &err);
    const int written = facts != NULL ? cli_end_facts(facts, as_json) : 0;
    return err.code != ERR_NONE ? cli_fail(&err) : written;
}
