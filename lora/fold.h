/* The same adapter with fewer ranks and scales: for engines that take one of each.
 *
 *     struct lora_fold f = { 0 };
 *     if (!lora_fold_open(&f, &adapter, choices, &config, LORA_FOLD_ALL, err)) ...
 *     ... f.choices, f.config, f.adapter ...
 *     lora_fold_close(&f);
 *
 * Each module keeps its change s B A of the weight. A lower rank is padded with zero rows of A and
 * zero columns of B; another scale goes into B, which is exact when the ratio is a power of two and
 * one rounding otherwise. The scale kept is that of most parameters, so that most B stay as they
 * are. In a layer where only some experts, or some of their projections, are adapted the others get
 * a pair of zeros, which adds nothing.
 */
#ifndef LORA_FOLD_H
#define LORA_FOLD_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/arena.h"
#include "kernels/core/err.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "lora/target.h"

enum lora_fold_what {
    LORA_FOLD_NOTHING, /* a plain copy */
    LORA_FOLD_EXPERTS, /* experts get one rank and scale; the rest its own, without rsLoRA */
    LORA_FOLD_ALL,     /* everything gets one rank and scale */
};

struct lora_fold {
    struct lora_choice *choices; /* (n_module) */
    struct lora_config config;   /* r, alpha and use_rslora; owns nothing, dropout is 0 */
    struct arena arena;
    struct lora_adapter adapter;          /* on the host; its modules are those of the original */
    int64_t n_padded, n_scaled, n_filled; /* modules */
};

/* `choices` are what the adapter was made from: their scales are in double. Errors: out of memory;
 * a B that overflows (ERR_DATA). */
bool lora_fold_open(struct lora_fold *f, const struct lora_adapter *from,
                    const struct lora_choice *choices, const struct lora_config *config,
                    enum lora_fold_what what, struct err *err);
void lora_fold_close(struct lora_fold *f);

/* The choices and config alone, without values (f->adapter stays empty): names and shapes. */
bool lora_fold_plan(struct lora_fold *f, const struct lora_module *modules, int64_t n,
                    const struct lora_choice *choices, const struct lora_config *config,
                    enum lora_fold_what what, struct err *err);

#endif
