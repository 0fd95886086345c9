/* kill -9. At random instants, again and again until the run is done, each time gone on with; and
 * instead of and after every single call of the file system that a run makes. The end is that of an
 * undisturbed run, byte for byte.
 *
 *     kills PROGRAM SHIM [--kills N] [--seed S] [--saves N] [--steps N]
 *
 * --kills: random ones, at least. --saves: checkpoints of the run that is killed at each call; 0:
 * no such runs.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/rng.h"
#include "tests/fault/scene.h"

struct kills {
    struct scene scene;
    struct tally tally;
    uint64_t seed, drawn;
    int64_t n_kill, n_chain;
    double whole; /* seconds of an undisturbed run */
};

static double draw(struct kills *w)
{
    return rng_uniform(w->seed, RNG_INIT_WEIGHTS, 0, w->drawn++);
}

/* ---- at random ---- */

/* Mostly early, so that a chain is long; now and then late, so that it ends. */
static double instant(struct kills *w)
{
    const double u = draw(w);
    return draw(w) < 0.9 ? 0.5 * u * w->whole : 1.2 * u * w->whole;
}

/* One run to its end. Never older than before: what was saved stays. */
static void chain(struct kills *w)
{
    int64_t newest = 0;
    tree_remove(w->scene.out);
    for (;;) {
        struct landing r;
        launch(&(struct launch){ .program = w->scene.program,
                                 .args = ARGS("train", w->scene.recipe, "--resume"),
                                 .signal = SIGKILL,
                                 .signal_after = instant(w) },
               &r);
        const int code = r.code;
        char *what = tree_text("chain %" PRId64 ", kill %" PRId64, w->n_chain, w->n_kill);
        if (code != 0 && code != 128 + SIGKILL)
            tally_bad(&w->tally, TALLY_LOST, "%s: ends with %d: %s", what, code,
                      scene_message(r.err));
        if (code == 128 + SIGKILL) {
            w->n_kill++;
            w->tally.cases++;
            newest = scene_check_checkpoints(&w->scene, &w->tally, newest, what);
        } else if (code == 0) {
            scene_check_done(&w->scene, &w->tally, what);
        }
        landing_free(&r);
        free(what);
        if (code != 128 + SIGKILL)
            break;
    }
    w->n_chain++;
}

/* ---- after every step ---- */

/* A run that was stopped after step k has the checkpoints up to it, and a log that may be longer.
 */
static void go_on_from(struct kills *w, const struct tree *whole, int64_t k)
{
    struct tree cut = { 0 };
    for (size_t i = 0; i < whole->n; i++) {
        const struct tree_file *f = &whole->files[i];
        int64_t step = 0;
        if (sscanf(f->name, "checkpoint-%" SCNd64, &step) == 1 && step > k)
            continue;
        tree_put(&cut, f->name, f->is_folder ? NULL : f->data, f->size);
    }
    char *what = tree_text("gone on with after step %" PRId64, k);
    tree_remove(w->scene.out);
    tree_write(&cut, w->scene.out);
    w->tally.cases++;
    scene_finish(&w->scene, &w->tally, what);
    free(what);
    tree_free(&cut);
}

static void go_on_from_every_step(struct kills *w, int64_t n_step)
{
    const double begin = launch_clock();
    struct tree whole = { 0 };
    tree_read(&whole, w->scene.out);
    for (int64_t k = 1; k <= n_step; k++) {
        char *name = tree_text("checkpoint-%" PRId64, k);
        if (tree_find(&whole, name) == NULL)
            tally_bad(&w->tally, TALLY_LOST, "%s: is not there", name);
        free(name);
        go_on_from(w, &whole, k);
    }
    tree_free(&whole);
    printf("gone on with after each of %" PRId64 " steps: %.1f s\n", n_step,
           launch_clock() - begin);
}

/* ---- at every call ---- */

static int64_t count_calls(struct kills *w)
{
    struct landing r;
    tree_remove(w->scene.out);
    launch(&(struct launch){ .program = w->scene.program,
                             .args = ARGS("train", w->scene.recipe),
                             .shim = w->scene.shim,
                             .under = w->scene.out },
           &r);
    const int64_t n = r.report.all;
    if (r.code != 0 || n < 10)
        tree_die("the run ends with %d under the shim after %" PRId64 " calls: %s", r.code, n,
                 r.err);
    landing_free(&r);
    return n;
}

static void kill_at(struct kills *w, int64_t k, const char *how)
{
    struct landing r;
    tree_remove(w->scene.out);
    launch(&(struct launch){ .program = w->scene.program,
                             .args = ARGS("train", w->scene.recipe),
                             .shim = w->scene.shim,
                             .under = w->scene.out,
                             .call = "any",
                             .how = how,
                             .at = k },
           &r);
    if (r.code == 128 + SIGKILL) {
        char *what = tree_text("%s at call %" PRId64 " (%s)", how, k, r.report.what);
        w->tally.cases++;
        scene_check_checkpoints(&w->scene, &w->tally, 0, what);
        scene_finish(&w->scene, &w->tally, what);
        free(what);
    } else if (r.code != 0) { /* 0: with two threads there may be a call less */
        tally_bad(&w->tally, TALLY_WRONG, "%s at call %" PRId64 ": ends with %d: %s", how, k,
                  r.code, scene_message(r.err));
    }
    landing_free(&r);
}

static void kill_at_calls(struct kills *w, int64_t n_save)
{
    const int64_t n = count_calls(w);
    const double begin = launch_clock();
    for (int64_t k = 1; k <= n; k++) {
        kill_at(w, k, "kill");
        kill_at(w, k, "killed");
    }
    printf("a run with %" PRId64 " saves, killed before and after each of its %" PRId64
           " calls: %.1f s\n",
           n_save, n, launch_clock() - begin);
}

int main(int argc, char **argv)
{
    struct kills w = { .seed = 1 };
    int64_t n_kill = 500, n_save = 2, n_step = 64;
    if (argc < 3 || argc % 2 == 0)
        return 64;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--kills") == 0)
            n_kill = atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--seed") == 0)
            w.seed = (uint64_t)atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--saves") == 0)
            n_save = atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--steps") == 0)
            n_step = atoll(argv[i + 1]);
    }
    scene_open(&w.scene, argv[1], argv[2], "save_steps: 2\nmax_steps: 60\neval_steps: 15\n");
    struct landing r;
    launch(&(struct launch){ .program = w.scene.program,
                             .args = ARGS("train", w.scene.recipe, "--overwrite") },
           &r);
    w.whole = r.seconds;
    landing_free(&r);
    const double begin = launch_clock();
    while (w.n_kill < n_kill)
        chain(&w);
    printf("seed %" PRIu64 ": %" PRId64 " kills in %" PRId64 " runs, each to its end: %.1f s\n",
           w.seed, w.n_kill, w.n_chain, launch_clock() - begin);
    scene_close(&w.scene);
    if (n_step > 0) {
        char *extra = tree_text(
            "save_steps: 1\nsave_total_limit: 0\nmax_steps: %" PRId64 "\neval_steps: 7\n", n_step);
        scene_open(&w.scene, argv[1], argv[2], extra);
        go_on_from_every_step(&w, n_step);
        scene_close(&w.scene);
        free(extra);
    }
    if (n_save > 0) {
        char *extra = tree_text("save_steps: 1\nmax_steps: %" PRId64 "\n", n_save);
        scene_open(&w.scene, argv[1], argv[2], extra);
        kill_at_calls(&w, n_save);
        scene_close(&w.scene);
        free(extra);
    }
    return tally_end(&w.tally, "kill -9");
}
