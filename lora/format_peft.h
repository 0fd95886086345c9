/* PEFT's adapter folder: adapter_config.json and adapter_model.safetensors.
 *
 *     const struct peft_model_facts facts = { .base_model = "ai21labs/Jamba-v0.1", .tied = false };
 *     ok = peft_write("out", &adapter, &config, &facts, err);
 *
 *     struct lora_config config = { 0 };
 *     ok = peft_read_config("out", &config, err) &&
 *          peft_choices_from_tensors("out", modules, n, &config, choices, err) &&
 *          lora_adapter_init(&adapter, ..., choices, ...) && peft_read_tensors("out", &adapter,
 * err); lora_config_free(&config);
 *
 * One folder serves two worlds. PEFT 0.18 on transformers 4 has every expert's projections as
 * modules. Transformers 5 fuses them into two parameters a layer, and PEFT from 0.19 on converts
 * the per-expert tensors when the config says so: target_parameters names the fused parameters, and
 * since gate and up become one matrix of twice the rank, rank_pattern and alpha_pattern double for
 * it. PEFT 0.18 ignores both. Which modules are wrapped is told by target_modules alone, by whole
 * names where suffixes would say too much; layers_to_transform is never written (PEFT 0.18 takes an
 * expert's number for a layer).
 */
#ifndef LORA_FORMAT_PEFT_H
#define LORA_FORMAT_PEFT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "lora/engines.h"
#include "lora/module.h"
#include "lora/target.h"

#define PEFT_CONFIG_NAME "adapter_config.json"
#define PEFT_TENSORS_NAME "adapter_model.safetensors"

struct peft_model_facts {
    const char *base_model; /* base_model_name_or_path; NULL writes null */
    bool tied;              /* lm_head uses the embedding's matrix */
    bool router_parameter;  /* name routers as parameters: transformers 5 takes them so, and 4 with
                               PEFT from 0.17 on */
};

/* Writes both files into dir (made if need be), each whole or not at all, the config last; then
 * reads them again and compares: the config byte for byte, the tensors bit for bit. Values are F32.
 */
bool peft_write(const char *dir, const struct lora_adapter *adapter,
                const struct lora_config *config, const struct peft_model_facts *facts,
                struct err *err);

/* The text of adapter_config.json for these choices, on its own (caller frees); NULL when memory is
 * out. */
char *peft_config_text(const struct lora_module *modules, int64_t n,
                       const struct lora_choice *choices, const struct lora_config *config,
                       const struct peft_model_facts *facts);

/* What peft_write makes of these choices (without router_parameter), for lora_judge. */
struct peft_traits peft_written_traits(const struct lora_module *modules, int64_t n,
                                       const struct lora_choice *choices,
                                       const struct lora_config *config);

/* What other programs will not honour of these choices once written, one finding of lora_judge a
 * line, appended to out. Nothing when all is well. */
void peft_warnings(const struct lora_module *modules, int64_t n, const struct lora_choice *choices,
                   const struct lora_config *config, const struct peft_model_facts *facts,
                   struct text *out);

/* Reads adapter_config.json into *out (zeroed before; lora_config_free it in either case). What
 * would be continued wrongly is refused by name: another peft_type, DoRA and the other variants,
 * modules_to_save, bias, initialisations that change the base, and keys that are unknown and not
 * null. The entries for fused experts are left out: they say nothing of a module. */
bool peft_read_config(const char *dir, struct lora_config *out, struct err *err);

/* Which modules the tensors adapt, in any layout that format_peft_layout.h lists, into
 * choices[0..n): the rank from A's shape, alpha and scale from the config. The tensors decide what
 * is adapted; a rank that the config contradicts is an error, as it is in PEFT. Tensors that no
 * module owns are an error, but for a "*.base_layer.weight". Of fused experts each one's gate_proj
 * and up_proj get the rank of their common parameter. */
bool peft_choices_from_tensors(const char *dir, const struct lora_module *modules, int64_t n,
                               const struct lora_config *config, struct lora_choice *choices,
                               struct err *err);

/* Reads A and B of every slot (F32, BF16 or F16), which must all be there with the right shape and
 * finite; further tensors are an error, but for a "*.base_layer.weight". */
bool peft_read_tensors(const char *dir, struct lora_adapter *adapter, struct err *err);

/* How the folder is written, for lora_judge; peft_traits_free it. choices are those of
 * peft_choices_from_tensors. */
bool peft_read_traits(const char *dir, const struct lora_module *modules, int64_t n,
                      const struct lora_config *config, const struct lora_choice *choices,
                      struct peft_traits *out, struct err *err);

#endif
