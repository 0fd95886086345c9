/* The k-th call of the file system fails, for every kind of call, every k and every error that the
 * kind can have, in every command: once, and from there on; or comes back short. The program must
 * end with 65, 66, 73 or 74 and a message, or carry on to the same result; a run's last checkpoint
 * is whole, and it goes on to the same bytes.
 *
 *     calls PROGRAM SHIM [--every N] [JOB ...]
 *
 * --every N: one case of N, spread over all (of a sweep and of bench fewer: jobs.c); every N-th of
 * these goes on with the run, too. Without it all, and each.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/jobs.h"

/* What can befall a kind of call: errors, 0 at the end; SHORT: a count of one byte. EINTR comes
 * once and goes. */
enum { SHORT = -1, MOST = 8 };
static const struct {
    enum fault_call call;
    const char *name;
    int how[MOST];
} kinds[] = {
    { FAULT_open, "open", { EMFILE, EACCES, EIO, ENOMEM } },
    { FAULT_create, "create", { EMFILE, EACCES, ENOSPC, EROFS, EIO } },
    { FAULT_read, "read", { EIO, EINTR, SHORT } },
    { FAULT_write, "write", { ENOSPC, EIO, EINTR, EDQUOT, SHORT } },
    { FAULT_sync, "sync", { EIO, ENOSPC } },
    { FAULT_rename, "rename", { EIO, ENOSPC, EACCES, EROFS } },
    { FAULT_unlink, "unlink", { EIO, EACCES, EROFS } },
    { FAULT_mkdir, "mkdir", { ENOSPC, EACCES, EROFS } },
    { FAULT_truncate, "truncate", { EIO, ENOSPC, EINTR } },
    { FAULT_close, "close", { EIO, ENOSPC, EINTR } },
    { FAULT_map, "map", { ENOMEM, EACCES } },
    { FAULT_list, "list", { EMFILE, EACCES, EIO } },
    { FAULT_stat, "stat", { EIO, EACCES } },
    { FAULT_space, "space", { EIO } },
    { FAULT_lock, "lock", { ENOLCK } },
};

struct sweep {
    struct scene scene;
    struct tree half;
    struct tally tally;
    int64_t every, n_seen;
};

struct point {
    size_t kind;
    int how;
    int64_t k;
    bool ever;
};

/* ENOMEM may come out as memory's code. */
static bool is_right_code(int code)
{
    return code == 65 || code == 66 || code == 71 || code == 73 || code == 74;
}

static void check(struct sweep *w, const struct job *job, const struct job_result *want,
                  const struct landing *r, bool finish, const char *what)
{
    struct tally *t = &w->tally;
    if (r->code == 0)
        job_check(&w->scene, job, want, r, t, what);
    else if (!is_right_code(r->code))
        tally_bad(t, TALLY_WRONG, "%s: ends with %d: %s", what, r->code, scene_message(r->err));
    else if (job_reason(job, r->err) == NULL)
        tally_bad(t, TALLY_SILENT, "%s: %d, but says: %s", what, r->code, scene_message(r->err));
    if (job->trains)
        scene_check_checkpoints(&w->scene, t, job->goes_on ? 2 : 0, what);
    if (r->code != 0 && finish)
        job_finish(&w->scene, job, want, t, what);
}

static char *describe(const struct job *job, const struct point *p)
{
    return tree_text("%s: %s %" PRId64 "%s: %s", job->name, kinds[p->kind].name, p->k,
                     p->ever ? " and later ones" : "",
                     p->how == SHORT ? "short" : strerror(p->how));
}

/* False: there is no such call any more. */
static bool try_point(struct sweep *w, const struct job *job, const struct job_line *line,
                      const struct job_result *want, const struct point *p)
{
    char how[16];
    snprintf(how, sizeof how, "%d", p->how);
    struct landing r;
    job_prepare(&w->scene, job, &w->half);
    launch(&(struct launch){ .program = w->scene.program,
                             .args = line->args,
                             .input = line->input,
                             .shim = w->scene.shim,
                             .under = w->scene.folder,
                             .call = kinds[p->kind].name,
                             .how = p->how == SHORT ? "short" : how,
                             .at = p->k,
                             .ever = p->ever },
           &r);
    const bool hit = r.report.hits > 0;
    if (hit) {
        char *what = describe(job, p), *whole = tree_text("%s (%s)", what, r.report.what);
        w->tally.cases++;
        check(w, job, want, &r, w->tally.cases % w->every == 0, whole);
        free(whole);
        free(what);
    }
    landing_free(&r);
    return hit;
}

static void sweep_kind(struct sweep *w, const struct job *job, const struct job_line *line,
                       const struct job_result *want, size_t kind, int64_t n_call)
{
    const bool fewer = w->every > 1 && job->rarely > 0 && !job->trains;
    const int64_t every = fewer ? w->every * job->rarely : w->every;
    for (int h = 0; h < MOST && kinds[kind].how[h] != 0; h++) {
        const int how = kinds[kind].how[h];
        for (int64_t k = 1; k <= n_call; k++) {
            for (int ever = 0; ever < (how == EINTR ? 1 : 2); ever++) {
                if (w->n_seen++ % every != 0)
                    continue;
                /* In a run of two threads a call may come earlier or later, the last one not. */
                try_point(w, job, line, want,
                          &(struct point){ .kind = kind, .how = how, .k = k, .ever = ever != 0 });
            }
        }
    }
}

/* How many calls of each kind there are when nothing fails. */
static void count(struct sweep *w, const struct job *job, const struct job_line *line,
                  struct fault_report *report)
{
    struct landing r;
    job_prepare(&w->scene, job, &w->half);
    launch(&(struct launch){ .program = w->scene.program,
                             .args = line->args,
                             .input = line->input,
                             .shim = w->scene.shim,
                             .under = w->scene.folder },
           &r);
    if (r.code != 0 || (r.report.all == 0 && strncmp(job->name, "env", 3) != 0))
        tree_die("%s: ends with %d under the shim, after %" PRId64 " calls: %s", job->name, r.code,
                 r.report.all, r.err);
    *report = r.report;
    landing_free(&r);
}

static void sweep(struct sweep *w, const struct job *job)
{
    struct job_result want;
    struct fault_report report;
    struct job_line line;
    const int64_t before = w->tally.cases;
    const double begin = launch_clock();
    job_line(&w->scene, job, &line);
    if (job_expect(&w->scene, job, &w->half, &want)) {
        count(w, job, &line, &report);
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            sweep_kind(w, job, &line, &want, i, report.calls[kinds[i].call]);
        printf("%-16s %5" PRId64 " calls, %6" PRId64 " cases  %6.1f s\n", job->name, report.all,
               w->tally.cases - before, launch_clock() - begin);
        fflush(stdout);
    } else {
        tally_bad(&w->tally, TALLY_WRONG, "%s: does not run", job->name);
    }
    job_line_free(&line);
    job_result_free(&want);
}

int main(int argc, char **argv)
{
    struct sweep w = { .every = 1 };
    int first = 3;
    if (argc < 3)
        return 64;
    if (argc > 4 && strcmp(argv[3], "--every") == 0) {
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
    return tally_end(&w.tally, "failing calls");
}
