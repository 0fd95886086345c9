/* Our side of check_tensorboard.py, which builds it: an event file of some steps, as a training run
 * writes it.
 *
 *     write_events OUTPUT_DIR RESUMED_STEP LAST_STEP SESSION [kill]
 *
 * Steps RESUMED_STEP + 1 (0 for -1) to LAST_STEP; values say step and session. With "kill" the
 * process kills itself instead of closing the file.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/tensorboard.h"

static bool write_step(struct tensorboard *tb, int64_t step, int session, struct err *err)
{
    const double third = step % 3 == 0 ? (double)NAN : step % 3 == 1 ? (double)INFINITY : -1;
    char text[256];
    bool ok = tensorboard_scalar(tb, "train/loss", step, 1000 * session + (double)step, err) &&
              tensorboard_scalar(tb, "train/memory_bytes", step, 1e11 + (double)step, err) &&
              tensorboard_scalar(tb, "train/odd", step, third, err);
    if (step % 10 != 0)
        return ok;
    snprintf(text, sizeof text, "session %d, step %d: <b>*&`\n```\n  \xE2\x82\xAC", session,
             (int)step);
    ok = ok && tensorboard_scalar(tb, "eval/loss", step, 2000 * session + (double)step, err) &&
         tensorboard_text(tb, "samples/1", step, text, err);
    return ok && (step % 20 != 0 || tensorboard_flush(tb, err));
}

int main(int argc, char **argv)
{
    struct tensorboard tb = { 0 };
    struct err err = { 0 };
    if (argc < 5)
        return 64;
    const int64_t resumed = atoll(argv[2]), last = atoll(argv[3]);
    const int session = atoi(argv[4]);
    bool ok =
        tensorboard_open(&tb, argv[1], resumed, &err) &&
        tensorboard_text(&tb, "recipe", resumed < 0 ? 0 : resumed, "lora_r: 8\nseed: 1\n", &err);
    for (int64_t step = resumed + 1; ok && step <= last; step++)
        ok = write_step(&tb, step, session, &err);
    if (ok && argc > 5 && strcmp(argv[5], "kill") == 0) {
        ok = tensorboard_flush(&tb, &err);
        raise(SIGKILL);
    }
    ok = tensorboard_close(&tb, &err) && ok;
    if (!ok)
        fprintf(stderr, "%s\n", err.text);
    return ok ? 0 : (int)err.code;
}
