/* An adapter to be exported, and the base it was trained on: what every exporter reads.
 *
 *     struct export_source s = { 0 };
 *     if (!export_open(&s, "out", NULL, err)) ...
 *     ... s.adapter, s.choices, s.lora, s.config ...
 *     export_close(&s);
 *
 * The adapter may be any that we or PEFT wrote (lora/format_peft); of the base only config.json is
 * read here.
 */
#ifndef FINETUNE_EXPORT_SOURCE_H
#define FINETUNE_EXPORT_SOURCE_H

#include "finetune/model/config.h"
#include "kernels/core/arena.h"
#include "kernels/core/err.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "lora/target.h"

struct export_source {
    char *adapter_dir;
    char *base_dir;  /* the base's folder; NULL when only its config is known (random:) */
    char *base_name; /* as the adapter or the caller names it */
    struct jamba_config config;
    struct lora_config lora;     /* of the adapter's file */
    struct lora_module *modules; /* of the base, in order */
    int64_t n_module;
    struct lora_choice *choices; /* (n_module): which are adapted, rank, alpha, scale */
    struct arena arena;
    struct lora_adapter adapter; /* its values in adapter.params, on the host */
};

/* base NULL: what the adapter's config names (base_model_name_or_path). The adapter's tensors must
 * fit the base. */
bool export_open(struct export_source *s, const char *adapter_dir, const char *base,
                 struct err *err);
void export_close(struct export_source *s);

#endif
