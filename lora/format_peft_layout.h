/* Where each module's A and B lie in adapter_model.safetensors, whichever way it was saved. Used by
 * format_peft.
 *
 *     struct peft_layout l = { 0 };
 *     if (!peft_layout_open(&l, dir, modules, n, err)) ...
 *     peft_pair_read(&l.pairs[i], &modules[i], PEFT_A, a);       // (rank, in)
 *     peft_layout_close(&l);
 *
 * Read are
 *   - PEFT's names, a pair of tensors a module, and the spellings of them that other savers leave
 *     behind: without "base_model.model." or with it twice, with an adapter's name in them
 *     (".lora_A.default.weight"), with what torch.compile, FSDP and DDP put in, of a model without
 *     its head ("layers.3..."), of the first Jamba's code ("moe.experts.3");
 *   - fused experts, as PEFT saves them on transformers 5, where a layer's experts are two
 *     parameters, gate_up_proj (expert, 2 d_ff, d_model) and down_proj (expert, d_model, d_ff):
 *     "experts.lora_A.weight" (expert * r, in), expert after expert, and "experts.lora_B.weight"
 *     (out, r * expert), the expert running fastest; when both are adapted one pair is under
 *     "experts.base_layer.". Shapes tell which is which. PEFT before 0.19 took the parameters for
 *     (expert, in, out): then A is over the outputs and B over the inputs;
 *   - a linear's or the embedding's matrix adapted as a parameter ("router.weight").
 * "*.base_layer.weight", the base's matrix beside an adapter, is passed over.
 */
#ifndef LORA_FORMAT_PEFT_LAYOUT_H
#define LORA_FORMAT_PEFT_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/format/safetensors.h"
#include "lora/config.h"
#include "lora/module.h"
#include "lora/peft_names.h"

/* One module's two matrices in the file: whole tensors, or one expert's part of a fused pair. */
struct peft_pair {
    const struct safetensors_tensor *a, *b; /* both NULL: not adapted */
    int64_t n_expert, expert;               /* 1 and 0 unless fused */
    int64_t row;  /* where its outputs begin: up_proj's follow gate_proj's */
    bool swapped; /* A is over the outputs, B over the inputs */
    bool is_fused;
};

struct peft_layout {
    char *path; /* of the file, for messages */
    struct safetensors st;
    const struct lora_module *modules; /* borrowed */
    int64_t n_module;
    struct peft_pair *pairs; /* (n_module) */
    int64_t *by_path;        /* (n_module): indices in the order of paths */
    bool has_fused;
    bool has_renamed; /* some tensor has a name that PEFT itself would not find */
    bool has_foreign; /* ... nor would one who does without "base_model.model." */
};

/* Errors: no file, a malformed one, a tensor of no module of this model (DoRA's, a whole weight,
 * ...), a module's matrix twice, fused tensors whose shapes do not fit. One of A and B may still be
 * missing, and a pair's shapes are not checked. */
bool peft_layout_open(struct peft_layout *l, const char *dir, const struct lora_module *modules,
                      int64_t n, struct err *err);
void peft_layout_close(struct peft_layout *l);

/* Whether both are there, of shapes that fit the module and each other. A pair without either is an
 * error, too. */
bool peft_pair_check(const struct peft_layout *l, int64_t module, struct err *err);

/* Of a checked pair. */
int64_t peft_pair_rank(const struct peft_pair *pair);

/* A checked pair's A (rank, in) or B (out, rank) into out; the types must be F32, BF16 or F16. */
void peft_pair_read(const struct peft_pair *pair, const struct lora_module *module,
                    enum peft_part part, real *out);

/* "model.layers.3.feed_forward.experts.gate_up_proj": the parameter that has this expert's matrix
 * on transformers 5. */
void peft_fused_path(const struct lora_module *module, char out[PEFT_NAME_SIZE]);

/* What the config says of parameters (target_parameters), which lora_config leaves out. */
struct peft_parameters {
    char **names;
    int64_t n_name;
    struct lora_pattern *ranks, *alphas; /* all keys of rank_pattern and alpha_pattern */
    int64_t n_rank, n_alpha;
    bool fused;   /* some are of fused experts */
    bool router;  /* some are routers' matrices */
    bool swapped; /* written by a PEFT before 0.19 */
};

/* Nothing where there is no config. */
bool peft_read_parameters(const char *dir, struct peft_parameters *out, struct err *err);
void peft_parameters_free(struct peft_parameters *p);

#endif
