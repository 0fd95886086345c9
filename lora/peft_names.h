/* Names of the tensors in adapter_model.safetensors. */
#ifndef LORA_PEFT_NAMES_H
#define LORA_PEFT_NAMES_H

#include "lora/module.h"

#define PEFT_PREFIX "base_model.model."

enum { PEFT_NAME_SIZE = 160 };

enum peft_part {
    PEFT_A,          /* ".lora_A.weight", or ".lora_embedding_A" */
    PEFT_B,          /* ".lora_B.weight", or ".lora_embedding_B" */
    PEFT_BASE_LAYER, /* ".base_layer.weight": the base's matrix, which PEFT saves beside an
                        embedding's */
    PEFT_NO_PART,
};

/* "base_model.model.lm_head.lora_A.weight" */
void peft_tensor_name(const struct lora_module *module, enum peft_part part,
                      char out[PEFT_NAME_SIZE]);

#endif
