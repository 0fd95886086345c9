#include "finetune/cli/print.h"

#include <inttypes.h>
#include <stdlib.h>

#include "kernels/core/text.h"

/* "in_proj x_proj out_proj": the kinds of a block that are adapted. */
static void kinds_of(const struct lora_summary *s, int block, struct text *out)
{
    for (int kind = 0; kind < LORA_KIND_COUNT; kind++) {
        if (s->kind[block][kind].n_adapted > 0)
            text_printf(out, "%s%s", out->len > 0 ? " " : "", lora_kind_name((enum lora_kind)kind));
    }
}

bool print_targets(FILE *out, const struct lora_module *modules, int64_t n,
                   const struct lora_choice *choices, struct err *err)
{
    struct lora_summary s;
    if (!lora_summarize(modules, n, choices, &s, err))
        return false;
    char count[32];
    fprintf(out, "%-12s %15s %6s %16s  %s\n", "adapted", "modules", "rank", "parameters", "which");
    for (int b = 0; b < LORA_BLOCK_COUNT; b++) {
        const struct lora_count *c = &s.block[b];
        if (c->n_module == 0)
            continue;
        struct text kinds = { 0 };
        char rank[32] = "-";
        kinds_of(&s, b, &kinds);
        if (kinds.failed) {
            text_free(&kinds);
            return err_no_memory(err, "the table of what is adapted");
        }
        if (c->r_max > 0)
            snprintf(rank, sizeof rank, c->r_min == c->r_max ? "%" PRId64 : "%" PRId64 "-%" PRId64,
                     c->r_min, c->r_max);
        text_count(count, c->n_param);
        fprintf(out, "%-12s %6" PRId64 " of %5" PRId64 " %6s %16s  %s\n",
                lora_block_name((enum lora_block)b), c->n_adapted, c->n_module, rank, count,
                kinds.data != NULL ? kinds.data : "none");
        text_free(&kinds);
    }
    text_count(count, s.total.n_param);
    fprintf(out, "%-12s %6" PRId64 " of %5" PRId64 " %6s %16s\n", "all", s.total.n_adapted,
            s.total.n_module, "", count);
    return true;
}

void print_plan(FILE *out, const struct plan_shape *shape, const struct plan_bytes *bytes,
                size_t budget)
{
    const struct {
        const char *name;
        size_t bytes;
    } rows[] = { { "weights", bytes->weights },   { "adapter", bytes->adapter },
                 { "saved", bytes->saved },       { "scratch", bytes->scratch },
                 { "checkpoint", bytes->copies }, { "total", bytes->total } };
    char size[32];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        text_bytes(size, (double)rows[i].bytes);
        fprintf(out, "memory %-10s %12s\n", rows[i].name, size);
    }
    if (budget > 0) {
        text_bytes(size, (double)budget);
        fprintf(out, "memory %-10s %12s\n", "budget", size);
    }
    fprintf(out,
            "passes of %" PRId64 " tokens, chunks of %" PRId64 ", gradient_checkpointing: %s\n",
            shape->pass_tokens, shape->chunk_tokens, recompute_name(shape->recompute));
}

json_t *json_plan(const struct plan_shape *shape, const struct plan_bytes *bytes, size_t budget)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "weights_bytes",
                     (json_int_t)bytes->weights, "adapter_bytes", (json_int_t)bytes->adapter,
                     "saved_bytes", (json_int_t)bytes->saved, "scratch_bytes",
                     (json_int_t)bytes->scratch, "checkpoint_bytes", (json_int_t)bytes->copies,
                     "total_bytes", (json_int_t)bytes->total, "budget_bytes", (json_int_t)budget,
                     "pass_tokens", (json_int_t)shape->pass_tokens, "chunk_tokens",
                     (json_int_t)shape->chunk_tokens, "gradient_checkpointing",
                     recompute_name(shape->recompute));
}
