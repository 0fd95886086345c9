#include "finetune/cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

void progress_init(struct progress *p, int64_t logging_steps)
{
    *p =
        (struct progress){ .terminal = isatty(STDERR_FILENO) == 1, .logging_steps = logging_steps };
}

/* "1:02:03", "4:05". */
static void clock_text(double seconds, char out[32])
{
    const long s = (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
}

void progress_end(struct progress *p)
{
    if (p->line_open)
        fputc('\n', stderr);
    p->line_open = false;
}

void progress_step(void *progress, const struct train_step *s)
{
    struct progress *p = progress;
    p->seconds += s->seconds;
    if (!s->applied) {
        progress_end(p);
        fprintf(stderr,
                "step %" PRId64
                ": loss %g, gradient norm %g: not finite, the step is not applied (%s)\n",
                s->step, s->loss, s->grad_norm, s->places);
        return;
    }
    const bool logged = s->step == 1 || s->step == s->n_step || s->step % p->logging_steps == 0;
    if (!p->terminal && !logged)
        return;
    char eta[32];
    clock_text(p->seconds / (double)s->step * (double)(s->n_step - s->step), eta);
    fprintf(stderr,
            "%sstep %" PRId64 "/%" PRId64
            "  epoch %.2f  loss %.4f  rate %.3g  norm %.3g  %.0f tokens/s  left %s%s",
            p->terminal ? "\r\033[K" : "", s->step, s->n_step, s->epoch, s->loss, s->learning_rate,
            s->grad_norm, s->tokens_per_second, eta, p->terminal ? "" : "\n");
    p->line_open = p->terminal;
    fflush(stderr);
}

void progress_eval(void *progress, const struct train_eval *e)
{
    struct progress *p = progress;
    progress_end(p);
    fprintf(stderr, "step %" PRId64 "  validation loss %.4f over %" PRId64 " tokens%s\n", e->step,
            e->loss, e->tokens, e->best ? "  (best so far)" : "");
}
