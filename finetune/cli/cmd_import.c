/* jambatune import: an adapter from elsewhere becomes one of ours. */
#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/cli/output.h"
#include "finetune/export/peft.h"

const char cmd_import_help[] =
    "usage: jambatune import ADAPTER OUT [--base BASE] [--json]\n"
    "\n"
    "Writes a PEFT adapter, in whichever layout it was saved, into the folder OUT as\n"
    "jambatune itself writes one: to train on from (lora_model_dir), to evaluate, to\n"
    "export. Every change of a weight stays what it was; that is checked on the files\n"
    "written, which are read again. ADAPTER may have\n"
    "  a pair of tensors per module, as PEFT saves on transformers 4\n"
    "  fused experts, as PEFT saves on transformers 5 (target_parameters); each\n"
    "    expert's gate_proj and up_proj then get the rank of their common parameter\n"
    "  copies of the base's matrices (*.base_layer.weight), which are left out\n"
    "  names as other programs leave them: without the prefix or with it twice, with\n"
    "    an adapter's name, with torch.compile's, FSDP's or DDP's additions, of a\n"
    "    model without its head, of the first Jamba's own code\n"
    "DoRA, trained biases or whole modules and the like are refused by name.\n"
    "\n"
    "Options:\n"
    "  --base BASE   the model it was trained on: a folder, a hub name in the local\n"
    "                cache, or random:CONFIG.JSON; by default what the adapter names\n"
    "  --json        print what was done as one JSON object\n"
    "\n"
    "OUT is new, empty or holds an adapter, which is replaced.\n"
    "\n"
    "Examples:\n"
    "  jambatune import ~/peft-run/checkpoint-500 out/start --base ./jamba\n"
    "  jambatune train train.yaml lora_model_dir=out/start\n";

int cmd_import(int argc, char **argv)
{
    const char *base = NULL;
    bool json = false;
    const struct cli_option options[] = { { "base", "BASE", &base, NULL },
                                          { "json", NULL, NULL, &json } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 2, &words, &err) ||
        !cli_expect_no_overrides(&words, &err) ||
        !cli_expect_args(&words, 2, 2, "jambatune import ADAPTER OUT [--base BASE]", &err))
        return cli_fail(&err);
    const char *adapter = words.args[0], *out = words.args[1];
    struct export_source s = { 0 };
    const bool ok = output_check_folder(out, adapter, true, &err) &&
                    export_open(&s, adapter, base, &err) && export_import(&s, out, &err);
    export_close(&s);
    return ok ? output_end(out, "adapter", NULL, json) : cli_fail(&err);
}
