#include "finetune/train/optim.h"

#include <float.h>
#include <math.h>

#include "kernels/ops.h"

double optim_grad_norm(struct backend *be, const struct lora_adapter *adapter)
{
    double sum = 0;
    op_sum_squares(
        be, &(struct sum_squares_args){ .x = adapter->grads, .sum = &sum, .n = adapter->n_param });
    return sqrt(sum);
}

double optim_clip(double max_norm, double norm)
{
    if (max_norm == 0)
        return 1;
    const double scale = max_norm / (norm + 1e-6);
    return scale < 1 ? scale : 1;
}

static double rate_of(const struct recipe *r, enum lora_group group)
{
    if (r->loraplus_lr_ratio == 0 || group == LORA_GROUP_A)
        return r->learning_rate;
    return group == LORA_GROUP_B ? r->learning_rate * r->loraplus_lr_ratio
                                 : r->loraplus_lr_embedding;
}

/* In `real` a tiny epsilon must not become zero: a parameter without gradients (an expert without
 * tokens) would turn into 0 / 0. */
static double epsilon_of(const struct recipe *r)
{
    return fmax(r->adam_epsilon, REAL_IS_DOUBLE ? DBL_MIN : (double)FLT_MIN);
}

/* The neighbours from range i on that take the same rate: one call, of many small ones on a device.
 */
static int64_t same_rate_end(const struct lora_adapter *adapter, const struct recipe *r, int64_t i)
{
    const double rate = rate_of(r, adapter->ranges[i].group);
    int64_t end = i + 1;
    while (end < adapter->n_range && rate_of(r, adapter->ranges[end].group) == rate)
        end++;
    return end;
}

void optim_step(struct backend *be, struct lora_adapter *adapter, const struct recipe *recipe,
                double factor, double grad_scale, int64_t count)
{
    const bool separate = be->act != DTYPE_REAL; /* the GEMMs read rounded copies */
    for (int64_t i = 0, end; i < adapter->n_range; i = end) {
        end = same_rate_end(adapter, recipe, i);
        const int64_t begin = adapter->ranges[i].begin;
        op_adamw(be, &(struct adamw_args){
                         .p = adapter->master + begin,
                         .p_act = separate ? act_at(be, adapter->act, begin) : NULL,
                         .m = adapter->m + begin,
                         .v = adapter->v + begin,
                         .g = adapter->grads + begin,
                         .n = adapter->ranges[end - 1].end - begin,
                         .lr = factor * rate_of(recipe, adapter->ranges[i].group),
                         .beta1 = recipe->adam_beta1,
                         .beta2 = recipe->adam_beta2,
                         .eps = epsilon_of(recipe),
                         .weight_decay = recipe->weight_decay,
                         .bias_correction1 = 1 - pow(recipe->adam_beta1, (double)count),
                         .bias_correction2 = 1 - pow(recipe->adam_beta2, (double)count),
                         .grad_scale = grad_scale,
                     });
    }
}
