/* A place an adapter can sit: one linear (or the embedding) of the model, by its path in transformers 4.x.
 * The model lists its modules (finetune/model/modules.h); lora/ chooses among them by path and shape and
 * knows nothing else of the model.
 */
#ifndef LORA_MODULE_H
#define LORA_MODULE_H

#include <stdint.h>

enum lora_kind {
    LORA_Q_PROJ,
    LORA_K_PROJ,
    LORA_V_PROJ,
    LORA_O_PROJ,
    LORA_IN_PROJ,
    LORA_X_PROJ,
    LORA_DT_PROJ,
    LORA_OUT_PROJ,
    LORA_GATE_PROJ,
    LORA_UP_PROJ,
    LORA_DOWN_PROJ,
    LORA_ROUTER,
    LORA_EMBED_TOKENS,
    LORA_LM_HEAD,
    LORA_KIND_COUNT,
};

/* Path without the "base_model.model." prefix: "model.layers.3.mamba.in_proj",
 * "model.layers.1.feed_forward.experts.7.down_proj", "model.embed_tokens", "lm_head". */
struct lora_module {
    char path[96];
    enum lora_kind kind;
    int64_t in, out;     /* of the linear; for embed_tokens in = vocab, out = d_model */
    int64_t layer;       /* -1 for embed_tokens and lm_head */
    int64_t expert;      /* -1 outside experts */
    int64_t n_expert;    /* of the layer's feed-forward; 1 when dense */
};

#endif
