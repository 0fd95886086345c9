/* The k-th allocation fails, for every k until none is left, in every command: once, and from there
 * on. The program must end with 71 and a message that says what memory was for, or carry on to the
 * same result where it could do without; without a crash or a leak. A run whose memory ran out goes
 * on to the same bytes.
 *
 *     allocations PROGRAM SHIM [--all | --every N] [JOB ...]
 *
 * Without --all one k for each distinct stack of calls, not for each of a thousand turns of a loop,
 * and one run of 16 is gone on with. --every N: of these one of N, of what takes long fewer
 * (jobs.c). PROGRAM is the one with alloc.c in it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/jobs.h"

struct sweep {
    struct scene scene;
    struct tree half;
    struct tally tally;
    bool all;
    int64_t every;
};

static int compare_hashes(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Which of n allocations stand for all: the first of each stack. Returns their number. */
static int64_t choose(const uint64_t *hashes, int64_t n, int64_t *chosen)
{
    uint64_t *seen = tree_alloc((size_t)n * sizeof *seen);
    int64_t n_seen = 0;
    for (int64_t k = 0; k < n; k++) {
        if (bsearch(&hashes[k], seen, (size_t)n_seen, sizeof *seen, compare_hashes) != NULL)
            continue;
        chosen[n_seen] = k + 1;
        seen[n_seen++] = hashes[k];
        qsort(seen, (size_t)n_seen, sizeof *seen, compare_hashes);
    }
    free(seen);
    return n_seen;
}

/* The allocations of an undisturbed run that are to fail, one after the other. */
static int64_t *list_points(const struct sweep *w, const struct job *job,
                            const struct job_line *line, int64_t *n)
{
    char *path = scene_path(&w->scene, "stacks");
    struct landing r;
    job_prepare(&w->scene, job, &w->half);
    launch(
        &(struct launch){
            .program = w->scene.program, .args = line->args, .input = line->input, .stacks = path },
        &r);
    size_t size = 0;
    char *hashes = tree_load(path, &size);
    const int64_t all = r.report.calls[FAULT_alloc];
    if (r.code != 0 || all == 0 || size != (size_t)all * sizeof(uint64_t))
        tree_die("%s: %" PRId64 " allocations, %zu bytes of stacks, exit code %d: %s", job->name,
                 all, size, r.code, r.err);
    int64_t *points = tree_alloc((size_t)all * sizeof *points);
    *n = all;
    for (int64_t k = 0; k < all; k++)
        points[k] = k + 1;
    if (!w->all)
        *n = choose((const uint64_t *)(const void *)hashes, all, points);
    landing_free(&r);
    free(hashes);
    free(path);
    return points;
}

/* A message that names what memory was for. */
static bool is_told(const struct job *job, const char *err)
{
    const char *line = job_reason(job, err);
    return line != NULL && (strstr(line, "memory") != NULL || strstr(line, "Memory") != NULL ||
                            strstr(line, "no thread could be started") != NULL);
}

static void check(struct sweep *w, const struct job *job, const struct job_result *want,
                  const struct landing *r, bool finish, const char *what)
{
    struct tally *t = &w->tally;
    if (r->code == 0)
        job_check(&w->scene, job, want, r, t, what);
    else if (r->code != 71)
        tally_bad(t, TALLY_WRONG, "%s: ends with %d: %s", what, r->code, scene_message(r->err));
    else if (!is_told(job, r->err))
        tally_bad(t, TALLY_SILENT, "%s: 71, but says: %s", what, scene_message(r->err));
    if (job->trains)
        scene_check_checkpoints(&w->scene, t, job->goes_on ? 2 : 0, what);
    if (r->code != 0 && finish)
        job_finish(&w->scene, job, want, t, what);
}

static void sweep(struct sweep *w, const struct job *job)
{
    struct job_result want;
    if (!job_expect(&w->scene, job, &w->half, &want)) {
        tally_bad(&w->tally, TALLY_WRONG, "%s: does not run", job->name);
        job_result_free(&want);
        return;
    }
    struct job_line line;
    job_line(&w->scene, job, &line);
    int64_t n = 0;
    int64_t *points = list_points(w, job, &line, &n);
    const double begin = launch_clock();
    const int64_t step = w->all ? 1 : w->every * (job->rarely > 0 ? job->rarely : 1);
    for (int64_t i = 0; i < 2 * n; i++) {
        struct landing r;
        if (i / 2 % step != 0)
            continue;
        const bool ever = i % 2 == 1;
        char *what = tree_text("%s: allocation %" PRId64 "%s", job->name, points[i / 2],
                               ever ? " and later ones" : "");
        job_prepare(&w->scene, job, &w->half);
        launch(&(struct launch){ .program = w->scene.program,
                                 .args = line.args,
                                 .input = line.input,
                                 .call = "alloc",
                                 .at = points[i / 2],
                                 .ever = ever },
               &r);
        w->tally.cases++;
        check(w, job, &want, &r, w->all || i % 16 == 0, what);
        landing_free(&r);
        free(what);
    }
    printf("%-16s one of %" PRId64 " of %6" PRId64
           " allocations fails, once and for ever  %6.1f s\n",
           job->name, step, n, launch_clock() - begin);
    fflush(stdout);
    free(points);
    job_line_free(&line);
    job_result_free(&want);
}

int main(int argc, char **argv)
{
    struct sweep w = { .every = 1 };
    int first = 3;
    if (argc < 3)
        return 64;
    if (argc > 3 && strcmp(argv[3], "--all") == 0) {
        w.all = true;
        first = 4;
    } else if (argc > 4 && strcmp(argv[3], "--every") == 0) {
        w.every = atoll(argv[4]);
        first = 5;
    }
    if (w.every < 1)
        return 64;
    scene_open(&w.scene, argv[1], argv[2], "save_steps: 2\n");
    job_make_half(&w.scene, &w.half);
    for (int i = 0; i < n_job; i++) {
        bool wanted = argc <= first;
        for (int k = first; k < argc; k++)
            wanted = wanted || strcmp(argv[k], jobs[i].name) == 0;
        if (wanted)
            sweep(&w, &jobs[i]);
    }
    tree_free(&w.half);
    scene_close(&w.scene);
    return tally_end(&w.tally, "failing allocations");
}
