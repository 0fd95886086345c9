/* Signals at random instants of a run: while it starts, loads, trains, evaluates, saves.
 *
 * TERM, INT, HUP and USR1 end it with 75 and a checkpoint, and it is gone on with, to the next
 * signal, until it is done: with the bytes of an undisturbed run. USR2 does not end it. And: of
 * eight runs begun at once in one folder one does the work, and the others say 73.
 *
 *     signals PROGRAM SHIM [--instants N] [--races N] [--seed S]
 *
 * --instants: per signal.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "kernels/core/rng.h"
#include "tests/fault/scene.h"

enum { N_RACER = 8, MAX_LATENCY = 1 << 20 };

static const struct {
    int number;
    const char *name;
} stops[] = { { SIGTERM, "TERM" }, { SIGINT, "INT" }, { SIGHUP, "HUP" }, { SIGUSR1, "USR1" } };

struct signals {
    struct scene scene;
    struct tally tally;
    uint64_t seed, drawn;
    double whole; /* seconds of an undisturbed run */
    double *latency;
    int64_t n_latency, n_early;
};

static double draw(struct signals *w)
{
    return rng_uniform(w->seed, RNG_INIT_WEIGHTS, 0, w->drawn++);
}

/* A signal before the program's first instructions does what it does to any program. */
static bool is_early(const struct landing *r, int number)
{
    return r->code == 128 + number && r->err[0] == '\0';
}

/* Returns whether the run is to be gone on with. */
static bool signalled(struct signals *w, int number, const char *name, double after, int64_t *least)
{
    struct landing r;
    launch(&(struct launch){ .program = w->scene.program,
                             .args = ARGS("train", w->scene.recipe, "--resume"),
                             .signal = number,
                             .signal_after = after },
           &r);
    char *what = tree_text("%s after %.1f ms", name, 1e3 * after);
    const int code = r.code;
    w->tally.cases++;
    if (is_early(&r, number)) {
        w->n_early++;
    } else if (code == 75) {
        /* Not always the last line: the thread that trains may print one more before the end. */
        if (strstr(r.err, "jambatune: stopped by a signal") == NULL)
            tally_bad(&w->tally, TALLY_SILENT, "%s: 75, but says: %s", what, scene_message(r.err));
        if (w->n_latency < MAX_LATENCY)
            w->latency[w->n_latency++] = r.seconds - after;
    } else if (code != 0) {
        tally_bad(&w->tally, TALLY_WRONG, "%s: ends with %d: %s", what, code, scene_message(r.err));
    }
    *least = scene_check_checkpoints(&w->scene, &w->tally, *least, what);
    if (code == 0)
        scene_check_done(&w->scene, &w->tally, what);
    landing_free(&r);
    free(what);
    return code == 75 || code > 128;
}

static void stop_at_random(struct signals *w, int number, const char *name, int64_t n)
{
    bool on = false;
    int64_t least = 0;
    for (int64_t i = 0; i < n || on; i++) {
        if (!on) {
            tree_remove(w->scene.out);
            least = 0;
        }
        on = signalled(w, number, name, draw(w) * (i < n ? 1.0 : 2.0) * w->whole, &least);
    }
}

/* Asks for a checkpoint: the run goes on to its end. */
static void save_at_random(struct signals *w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        struct landing r;
        const double after = draw(w) * w->whole;
        tree_remove(w->scene.out);
        launch(&(struct launch){ .program = w->scene.program,
                                 .args = ARGS("train", w->scene.recipe),
                                 .signal = SIGUSR2,
                                 .signal_after = after },
               &r);
        char *what = tree_text("USR2 after %.1f ms", 1e3 * after);
        w->tally.cases++;
        if (is_early(&r, SIGUSR2))
            w->n_early++;
        else if (r.code != 0)
            tally_bad(&w->tally, TALLY_WRONG, "%s: ends with %d: %s", what, r.code,
                      scene_message(r.err));
        else
            scene_check_done(&w->scene, &w->tally, what);
        scene_check_checkpoints(&w->scene, &w->tally, 0, what);
        landing_free(&r);
        free(what);
    }
}

static void race(struct signals *w, int64_t round)
{
    pid_t racers[N_RACER];
    int n_done = 0, n_locked = 0, other = 0;
    tree_remove(w->scene.out);
    for (int i = 0; i < N_RACER; i++)
        racers[i] = (pid_t)launch_start(&(struct launch){ .program = w->scene.program,
                                                          .args = ARGS("train", w->scene.recipe) });
    for (int i = 0; i < N_RACER; i++) {
        int status = 0;
        waitpid(racers[i], &status, 0);
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        n_done += code == 0;
        n_locked += code == 73;
        other = code != 0 && code != 73 ? code : other;
    }
    char *what = tree_text("race %" PRId64, round);
    w->tally.cases++;
    if (n_done != 1 || n_locked != N_RACER - 1)
        tally_bad(&w->tally, TALLY_WRONG, "%s: %d of %d did the work, %d said 73, one said %d",
                  what, n_done, N_RACER, n_locked, other);
    scene_check_done(&w->scene, &w->tally, what);
    free(what);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_latency(struct signals *w)
{
    if (w->n_latency == 0)
        return;
    qsort(w->latency, (size_t)w->n_latency, sizeof *w->latency, compare);
    printf("from signal to exit: median %.1f ms, 99 %% %.1f ms, longest %.1f ms; %" PRId64
           " came before the program had begun\n",
           1e3 * w->latency[w->n_latency / 2], 1e3 * w->latency[w->n_latency * 99 / 100],
           1e3 * w->latency[w->n_latency - 1], w->n_early);
}

int main(int argc, char **argv)
{
    struct signals w = { .seed = 1 };
    int64_t n = 40, n_race = 10;
    if (argc < 3 || argc % 2 == 0)
        return 64;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--instants") == 0)
            n = atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--races") == 0)
            n_race = atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--seed") == 0)
            w.seed = (uint64_t)atoll(argv[i + 1]);
    }
    w.latency = tree_alloc(MAX_LATENCY * sizeof *w.latency);
    scene_open(&w.scene, argv[1], argv[2], "save_steps: 5\nmax_steps: 40\neval_steps: 5\n");
    tree_remove(w.scene.out);
    struct landing r;
    launch(&(struct launch){ .program = w.scene.program, .args = ARGS("train", w.scene.recipe) },
           &r);
    w.whole = r.seconds;
    landing_free(&r);
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++)
        stop_at_random(&w, stops[i].number, stops[i].name, n);
    save_at_random(&w, n);
    for (int64_t i = 0; i < n_race; i++)
        race(&w, i);
    print_latency(&w);
    free(w.latency);
    scene_close(&w.scene);
    return tally_end(&w.tally, "signals");
}
