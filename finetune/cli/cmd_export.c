/* jambatune export: an adapter, or a base, in the form that an engine takes. */
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/output.h"
#include "finetune/export/gguf_adapter.h"
#include "finetune/export/gguf_base.h"
#include "finetune/export/merged.h"
#include "finetune/export/peft.h"
#include "finetune/model/weights.h"

const char cmd_export_help[] =
    "usage: jambatune export ADAPTER --to peft|gguf|merged [--base BASE] OUT\n"
    "       jambatune export --gguf-base BASE [--dtype f32|f16|bf16] OUT\n"
    "\n"
    "Writes an adapter, ours or one that PEFT saved, in the form that an "
    "engine takes:\n"
    "  --to peft     a PEFT folder for the engine that --engine names:\n"
    "                vllm           one rank and alpha for all, no rsLoRA, all "
    "experts\n"
    "                               of a layer; says which --max-lora-rank it "
    "needs\n"
    "                transformers5  experts alike, and named as PEFT needs it "
    "there\n"
    "                transformers4  ranks and scales as they are\n"
    "                By default vllm, the strictest: the others take it, too, "
    "but for\n"
    "                router and dt_proj, which transformers 5 does not.\n"
    "  --to gguf     a GGUF adapter for llama.cpp and what is built on it (a "
    "file)\n"
    "  --to merged   the whole checkpoint with the adapter folded in (a "
    "folder), for\n"
    "                every engine\n"
    "  --gguf-base   the base itself as GGUF, for the GGUF adapter to be "
    "loaded onto\n"
    "\n"
    "Ranks are evened out with zeros and scales folded into B where an engine "
    "has\n"
    "one of each; what it would refuse or silently leave out otherwise is "
    "refused\n"
    "here, by name. Everything is read back after writing: each weight must "
    "change\n"
    "as it does with the adapter. `jambatune lint ADAPTER` tells it all "
    "beforehand.\n"
    "\n"
    "Options:\n"
    "  --base BASE      the model it was trained on: a folder or a hub name in "
    "the\n"
    "                   local cache; by default what the adapter names\n"
    "  --engine ENGINE  with --to peft: vllm, transformers5 or transformers4\n"
    "  --dtype TYPE     with --to gguf f32 (the default) or f16; with "
    "--gguf-base f32,\n"
    "                   f16 or bf16, by default the checkpoint's own\n"
    "  --json           print what was done as one JSON object\n"
    "\n"
    "A folder OUT is new or empty, or with --to peft holds an adapter, which "
    "is\n"
    "replaced; a file OUT is new or a GGUF file.\n"
    "\n"
    "Examples:\n"
    "  jambatune export out/best --to peft --engine vllm out/vllm\n"
    "  jambatune export out/best --to gguf adapter.gguf\n"
    "  jambatune export --gguf-base ./jamba jamba.gguf\n"
    "  jambatune export out/best --to merged --base ./jamba jamba-tuned\n";

struct request {
    const char *adapter, *out;
    const char *to, *base, *gguf_base; /* as given; NULL: not */
    enum lora_engine engine;
    enum dtype dtype;
    bool has_dtype, json;
};

/* ---- the command line ---- */

static bool bad_word(const char *name, const char *text, const char *expected, struct err *err)
{
    return err_set(err, ERR_USAGE, "command line: --%s: '%.60s'; expected %s", name, text,
                   expected);
}

static bool read_dtype(const char *text, enum dtype *out, struct err *err)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } types[] = { { "f32", DTYPE_F32 }, { "f16", DTYPE_F16 }, { "bf16", DTYPE_BF16 } };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(text, types[i].name) == 0) {
            *out = types[i].dtype;
            return true;
        }
    }
    return bad_word("dtype", text, "f32, f16 or bf16", err);
}

static bool read_engine(const char *text, enum lora_engine *out, struct err *err)
{
    return (lora_engine_parse(text, out) && *out <= LORA_ENGINE_VLLM) ||
           bad_word("engine", text, "vllm, transformers5 or transformers4", err);
}

static bool is_to(const struct request *r, const char *form)
{
    return r->to != NULL && strcmp(r->to, form) == 0;
}

static bool check_to(const struct request *r, struct err *err)
{
    if (r->gguf_base != NULL && r->to != NULL)
        return err_set(err, ERR_USAGE,
                       "command line: --gguf-base does not go with --to: it writes "
                       "the base alone");
    if (r->gguf_base != NULL && r->base != NULL)
        return err_set(err, ERR_USAGE,
                       "command line: --base does not go with --gguf-base, which "
                       "names the base");
    if (r->gguf_base == NULL && r->to == NULL)
        return err_set(err, ERR_USAGE,
                       "command line: --to is missing; expected --to peft, gguf or merged");
    return r->gguf_base != NULL || is_to(r, "peft") || is_to(r, "gguf") || is_to(r, "merged") ||
           bad_word("to", r->to, "peft, gguf or merged", err);
}

static bool read_options(struct request *r, const char *engine, const char *dtype, struct err *err)
{
    const bool gguf = is_to(r, "gguf") || r->gguf_base != NULL;
    r->engine = LORA_ENGINE_VLLM;
    r->has_dtype = dtype != NULL;
    if (!check_to(r, err) || (engine != NULL && !read_engine(engine, &r->engine, err)) ||
        (dtype != NULL && !read_dtype(dtype, &r->dtype, err)))
        return false;
    if (engine != NULL && !is_to(r, "peft"))
        return err_set(err, ERR_USAGE, "command line: --engine: goes with --to peft only");
    if (dtype != NULL && !gguf)
        return err_set(err, ERR_USAGE,
                       "command line: --dtype: goes with --to gguf and --gguf-base only");
    return !is_to(r, "gguf") || r->dtype != DTYPE_BF16 ||
           bad_word("dtype", dtype, "f32 or f16 for an adapter", err);
}

static bool parse(int argc, char **argv, struct request *r, struct err *err)
{
    const char *engine = NULL, *dtype = NULL;
    const struct cli_option options[] = {
        { "to", "peft|gguf|merged", &r->to, NULL },   { "base", "BASE", &r->base, NULL },
        { "engine", "ENGINE", &engine, NULL },        { "dtype", "TYPE", &dtype, NULL },
        { "gguf-base", "BASE", &r->gguf_base, NULL }, { "json", NULL, NULL, &r->json }
    };
    struct cli_words words;
    if (!cli_parse(argc, argv, options, 6, &words, err) || !cli_expect_no_overrides(&words, err) ||
        !read_options(r, engine, dtype, err))
        return false;
    const bool base = r->gguf_base != NULL;
    if (!cli_expect_args(&words, base ? 1 : 2, base ? 1 : 2,
                         base ? "jambatune export --gguf-base BASE OUT"
                              : "jambatune export ADAPTER --to peft|gguf|merged OUT",
                         err))
        return false;
    r->adapter = base ? NULL : words.args[0];
    r->out = words.args[base ? 0 : 1];
    return true;
}

/* ---- each form ---- */

/* The type that config.json says the weights have. */
static bool own_dtype(const char *base, enum dtype *out, struct err *err)
{
    char *folder = NULL, *path = NULL;
    struct jamba_config config;
    const bool ok =
        weights_locate(base, &folder, &path, err) && jamba_config_read(path, &config, err);
    if (ok)
        *out = config.dtype;
    free(folder);
    free(path);
    return ok;
}

static bool export_base(struct request *r, struct text *notes, struct err *err)
{
    return output_check_gguf(r->out, err) &&
           (r->has_dtype || own_dtype(r->gguf_base, &r->dtype, err)) &&
           export_gguf_base(r->gguf_base, r->dtype, r->out, notes, err);
}

static bool export_adapter(const struct request *r, struct text *notes, struct err *err)
{
    const bool may_write = is_to(r, "gguf")
                               ? output_check_gguf(r->out, err)
                               : output_check_folder(r->out, r->adapter, is_to(r, "peft"), err);
    struct export_source s = { 0 };
    if (!may_write || !export_open(&s, r->adapter, r->base, err))
        return false;
    const bool ok = is_to(r, "peft")   ? export_peft(&s, r->engine, r->out, notes, err)
                    : is_to(r, "gguf") ? export_gguf_adapter(&s, r->dtype, r->out, notes, err)
                                       : export_merged(&s, r->out, notes, err);
    export_close(&s);
    return ok;
}

static const char *form_of(const struct request *r)
{
    if (r->gguf_base != NULL)
        return "GGUF base";
    return is_to(r, "peft")   ? "PEFT adapter"
           : is_to(r, "gguf") ? "GGUF adapter"
                              : "merged checkpoint";
}

int cmd_export(int argc, char **argv)
{
    struct request r = { 0 };
    struct text notes = { 0 };
    struct err err = { 0 };
    if (!parse(argc, argv, &r, &err))
        return cli_fail(&err);
    const bool ok =
        r.gguf_base != NULL ? export_base(&r, &notes, &err) : export_adapter(&r, &notes, &err);
    const bool is_whole = ok && !notes.failed;
    if (ok && notes.failed)
        err_set(&err, ERR_NO_MEMORY,
                "%s: is written and reads back the same, but memory ran out for the notes on it",
                r.out);
    const int code = is_whole ? output_end(r.out, form_of(&r), notes.data, r.json) : cli_fail(&err);
    text_free(&notes);
    return code;
}
