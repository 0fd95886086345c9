#include "lora/peft_names.h"

#include <stdio.h>

void peft_tensor_name(const struct lora_module *module, enum peft_part part,
                      char out[PEFT_NAME_SIZE])
{
    static const char *const linear[] = { ".lora_A.weight", ".lora_B.weight", ".base_layer.weight",
                                          "" };
    static const char *const embedding[] = { ".lora_embedding_A", ".lora_embedding_B",
                                             ".base_layer.weight", "" };
    snprintf(out, PEFT_NAME_SIZE, PEFT_PREFIX "%s%s", module->path,
             module->kind == LORA_EMBED_TOKENS ? embedding[part] : linear[part]);
}
