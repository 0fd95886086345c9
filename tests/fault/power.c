/* The power goes. Runs are recorded, one of them killed in the middle and gone on with, one stopped
 * by a signal; then the folder is rebuilt as a disk may be found after any of their calls, with
 * what was not synced kept, dropped, torn at 512 or 4096 bytes, zeroed, mixed; names made or not.
 * Each such folder must load the newest checkpoint that was synced or said to be whole, or a later
 * one, and that with its own bytes; every file that is put in place by a name must be the old or
 * the new; some of the folders are gone on with, to the bytes of an undisturbed run.
 *
 *     power PROGRAM SHIM [--states N] [--seed S] [--resume-every N]
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/checkpoint.h"
#include "kernels/core/rng.h"
#include "tests/fault/disk.h"
#include "tests/fault/scene.h"

enum { MAX_STEP = 64, N_WAY = 10 };

struct power {
    struct scene scene;
    struct tally tally;
    char *root, *output; /* what is recorded: root/out */
    struct disk_log log;
    struct tree *after;          /* per record that renames: the folder then, all kept */
    struct tree saved[MAX_STEP]; /* checkpoint-N as it was put in place */
    uint64_t seed;
    int64_t resume_every;
    double whole; /* seconds of an undisturbed run */
    bool done;    /* the recorded run was: it exited with 0 */
};

/* ---- recording ---- */

enum way_to_end { END_DONE, END_KILLED, END_STOPPED };

/* When a signal came: before there was a step to save, in time, or after the end. */
enum timing { TOO_EARLY, IN_TIME, TOO_LATE };

/* Killed after its write number kill_at, or stopped so many seconds after its beginning. */
static enum timing record(struct power *w, const char *log, enum way_to_end end, int64_t kill_at,
                          double stop_after)
{
    static const int codes[] = { [END_DONE] = 0, [END_KILLED] = 128 + SIGKILL, [END_STOPPED] = 75 };
    struct landing r;
    launch(&(struct launch){ .program = w->scene.program,
                             .args = ARGS("train", w->scene.recipe, w->output, "--resume"),
                             .shim = w->scene.shim,
                             .under = w->root,
                             .log = log,
                             .call = end == END_KILLED ? "write" : NULL,
                             .how = "killed",
                             .at = kill_at,
                             .signal = end == END_STOPPED ? SIGTERM : 0,
                             .signal_after = stop_after },
           &r);
    const bool other = end == END_STOPPED && (r.code == 0 || r.code == 128 + SIGTERM);
    const bool saved = end != END_STOPPED || scene_step_claimed(r.err, strlen(r.err)) > 0;
    const enum timing timing = saved ? IN_TIME : r.code == 0 ? TOO_LATE : TOO_EARLY;
    if (!other && r.code != codes[end])
        tree_die("the recorded run ends with %d: %s", r.code, r.err);
    landing_free(&r);
    return timing;
}

static void begin_anew(struct power *w, const char *log)
{
    tree_remove(log);
    tree_remove(w->root);
    tree_write(&(struct tree){ 0 }, w->root);
}

/* A run stopped on its way. How long it takes to begin and to end is found on the way, for the
 * machine may be busy with other things. */
static void record_stopped(struct power *w, const char *log, double after)
{
    double early = 0, late = 2 * w->whole;
    for (int i = 0; i < 60; i++) {
        const enum timing timing = record(w, log, END_STOPPED, 0, after);
        if (timing == IN_TIME)
            return;
        begin_anew(w, log);
        *(timing == TOO_EARLY ? &early : &late) = after;
        if (i % 12 == 11 || late <= early) { /* it has become faster or slower since */
            early = 0;
            late = 4 * w->whole;
        }
        after = (early + late) / 2;
    }
    tree_die("the run is never stopped in time");
}

/* checkpoint-N as the program made it: when it gets its name, with nothing lost. */
static void keep_saved(struct power *w, int64_t i)
{
    const int64_t step = disk_saved_step(&w->log, i);
    if (step < 0)
        return;
    if (step >= MAX_STEP)
        tree_die("step %" PRId64 " is more than this test holds", step);
    tree_free(&w->saved[step]);
    char *prefix = tree_text("out/checkpoint-%" PRId64 "/", step);
    for (size_t k = 0; k < w->after[i].n; k++) {
        const struct tree_file *f = &w->after[i].files[k];
        if (strncmp(f->name, prefix, strlen(prefix)) == 0)
            tree_put(&w->saved[step], f->name + strlen(prefix), f->data, f->size);
    }
    free(prefix);
}

static void record_runs(struct power *w, enum way_to_end end, double u)
{
    char *log = scene_path(&w->scene, "log");
    begin_anew(w, log);
    if (end == END_KILLED)
        record(w, log, END_KILLED, 20 + (int64_t)(u * 60), 0);
    if (end == END_STOPPED)
        record_stopped(w, log, w->whole * (0.3 + 0.7 * u));
    if (end != END_STOPPED)
        record(w, log, END_DONE, 0, 0);
    disk_log_load(&w->log, log, w->root);
    free(log);
    if (w->log.n < 50)
        tree_die("the log has but %" PRId64 " records", w->log.n);
    w->after = tree_alloc((size_t)w->log.n * sizeof *w->after);
    for (int64_t i = 0; i < w->log.n; i++) {
        char *name = disk_renamed_to(&w->log, i);
        if (name != NULL)
            disk_rebuild(&w->log,
                         &(struct disk_loss){
                             .prefix = i + 1, .data = DISK_KEPT, .names = DISK_KEPT, .block = 512 },
                         &w->after[i]);
        free(name);
        keep_saved(w, i);
    }
}

static void forget_runs(struct power *w)
{
    for (int64_t i = 0; i < w->log.n; i++)
        tree_free(&w->after[i]);
    free(w->after);
    for (int i = 0; i < MAX_STEP; i++)
        tree_free(&w->saved[i]);
    disk_log_free(&w->log);
}

/* ---- checks ---- */

/* Of checkpoints renamed within the prefix: the newest, and the newest whose name was synced
 * afterwards, or that was said to be whole. */
static void steps_within(const struct power *w, int64_t prefix, int64_t *synced, int64_t *named)
{
    int64_t waiting = 0;
    *synced = *named = 0;
    for (int64_t i = 0; i < prefix; i++) {
        size_t n = 0;
        const char *bytes = disk_written(&w->log, i, &n);
        const int64_t step = disk_saved_step(&w->log, i);
        const int64_t claimed = bytes != NULL ? scene_step_claimed(bytes, n) : 0;
        if (claimed > 0)
            *synced = claimed;
        if (step > 0)
            waiting = *named = step;
        else if (waiting > 0 && disk_is_sync_of(&w->log, i, "out"))
            *synced = waiting;
    }
}

static void check_checkpoint(struct power *w, const struct tree *found, const struct disk_loss *l,
                             const char *what)
{
    char *out = tree_text("%s/out", w->root), *dir = NULL;
    struct text notes = { 0 };
    struct err err = { 0 };
    int64_t synced, named, step = 0;
    steps_within(w, l->prefix, &synced, &named);
    const bool ok = checkpoint_find(out, &dir, &notes, &err);
    if (ok && dir != NULL)
        step = atoll(strrchr(dir, '-') + 1);
    if (step < synced)
        tally_bad(&w->tally, TALLY_LOST,
                  "%s: found step %" PRId64 ", step %" PRId64 " was synced: %s%s", what, step,
                  synced, err.text, notes.data != NULL ? notes.data : "");
    if (step > named)
        tally_bad(&w->tally, TALLY_CORRUPT, "%s: step %" PRId64 " was not there yet", what, step);
    for (size_t i = 0; step > 0 && step < MAX_STEP && i < w->saved[step].n; i++) {
        const struct tree_file *want = &w->saved[step].files[i];
        char *name = tree_text("out/checkpoint-%" PRId64 "/%s", step, want->name);
        const struct tree_file *have = tree_find(found, name);
        if (have == NULL || have->size != want->size ||
            memcmp(have->data, want->data, want->size) != 0)
            tally_bad(&w->tally, TALLY_CORRUPT, "%s: %s is accepted with other bytes", what, name);
        free(name);
    }
    text_free(&notes);
    free(dir);
    free(out);
}

/* A file that is put in place by a rename is whole, old or new. */
static void check_files(struct power *w, const struct tree *found, const struct disk_loss *l,
                        const char *what)
{
    for (int64_t i = 0; i < l->prefix; i++) {
        char *name = disk_renamed_to(&w->log, i);
        const struct tree_file *have = name != NULL ? tree_find(found, name) : NULL;
        bool known = have == NULL || have->is_folder || strstr(name, "checkpoint-") != NULL;
        for (int64_t k = 0; !known && k < l->prefix; k++) {
            char *other = disk_renamed_to(&w->log, k);
            if (other != NULL && strcmp(other, name) == 0)
                known = tree_same_file(found, &w->after[k], name);
            free(other);
        }
        if (!known)
            tally_bad(&w->tally, TALLY_CORRUPT, "%s: %s is neither the old nor the new", what,
                      name);
        free(name);
    }
}

static void go_on(struct power *w, const char *what)
{
    struct landing r;
    launch(&(struct launch){ .program = w->scene.program,
                             .args = ARGS("train", w->scene.recipe, w->output, "--resume") },
           &r);
    if (r.code != 0) {
        tally_bad(&w->tally, TALLY_LOST, "%s: train --resume ends with %d: %s", what, r.code,
                  scene_message(r.err));
    } else {
        char *kept = w->scene.out, *out = tree_text("%s/out", w->root);
        w->scene.out = out;
        scene_check_done(&w->scene, &w->tally, what);
        w->scene.out = kept;
        free(out);
    }
    landing_free(&r);
}

static void try_state(struct power *w, const struct disk_loss *l)
{
    static const char *const fates[] = { "kept", "dropped", "zeroed", "torn", "mixed", "random" };
    struct tree found = { 0 };
    char *what = tree_text("after record %" PRId64 " of %" PRId64 ", data %s at %" PRId64
                           ", names %s, seed %" PRIu64,
                           l->prefix, w->log.n, fates[l->data], l->block, fates[l->names], l->seed);
    disk_rebuild(&w->log, l, &found);
    tree_remove(w->root);
    tree_write(&found, w->root);
    w->tally.cases++;
    check_checkpoint(w, &found, l, what);
    check_files(w, &found, l, what);
    /* Exit 0 said that it was all there. */
    if (l->prefix == w->log.n && w->done) {
        struct tree out = { 0 };
        char *folder = tree_text("%s/out", w->root);
        tree_read(&out, folder);
        if (!tree_same_file(&out, &w->scene.done, "adapter_model.safetensors") ||
            !tree_same_file(&out, &w->scene.done, "adapter_config.json"))
            tally_bad(&w->tally, TALLY_LOST, "%s: the adapter of a run that ended is lost", what);
        free(folder);
        tree_free(&out);
    }
    if (w->resume_every > 0 && w->tally.cases % w->resume_every == 0)
        go_on(w, what);
    tree_free(&found);
    free(what);
}

/* Each prefix in each way in turn, begun somewhere else by each seed; half of all at random. */
static void try_states(struct power *w, int64_t n)
{
    static const struct {
        enum disk_fate data, names;
        int64_t block;
    } ways[N_WAY] = {
        { DISK_KEPT, DISK_KEPT, 512 },      { DISK_DROPPED, DISK_DROPPED, 512 },
        { DISK_DROPPED, DISK_KEPT, 512 },   { DISK_ZEROED, DISK_KEPT, 512 },
        { DISK_TORN, DISK_KEPT, 512 },      { DISK_TORN, DISK_KEPT, 4096 },
        { DISK_KEPT, DISK_DROPPED, 512 },   { DISK_MIXED, DISK_TORN, 512 },
        { DISK_RANDOM, DISK_RANDOM, 4096 }, { DISK_RANDOM, DISK_RANDOM, 512 },
    };
    for (int64_t i = 0; i < n; i++) {
        const double u = rng_uniform(w->seed, RNG_INIT_WEIGHTS, 1, (uint64_t)i);
        const int64_t way = i % N_WAY;
        struct disk_loss l = { .prefix = 1 + (int64_t)(u * (double)w->log.n),
                               .data = ways[way].data,
                               .names = ways[way].names,
                               .block = ways[way].block,
                               .seed = w->seed * 1000003 + (uint64_t)i };
        if (i < N_WAY || (!w->done && i % 2 == 0)) /* the run is done, or left */
            l.prefix = w->log.n;
        l.prefix = l.prefix > w->log.n ? w->log.n : l.prefix;
        try_state(w, &l);
    }
}

int main(int argc, char **argv)
{
    struct power w = { .seed = 1, .resume_every = 47 };
    int64_t n_state = 2000;
    if (argc < 3 || argc % 2 == 0)
        return 64;
    for (int i = 3; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--states") == 0)
            n_state = atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--seed") == 0)
            w.seed = (uint64_t)atoll(argv[i + 1]);
        else if (strcmp(argv[i], "--resume-every") == 0)
            w.resume_every = atoll(argv[i + 1]);
    }
    scene_open(&w.scene, argv[1], argv[2], "save_steps: 1\n");
    w.root = scene_path(&w.scene, "disk");
    w.output = tree_text("output_dir=%s/out", w.root);
    const double begin = launch_clock();
    static const char *const names[] = { "straight", "killed and resumed", "stopped" };
    static const enum way_to_end ends[] = { END_DONE, END_KILLED, END_STOPPED };
    for (int run = 0; run < 3; run++) {
        const double u = rng_uniform(w.seed, RNG_INIT_WEIGHTS, 0, 0), start = launch_clock();
        record_runs(&w, ends[run], u);
        w.whole = run == 0 ? launch_clock() - start : w.whole;
        w.done = ends[run] != END_STOPPED;
        printf("%s run: %" PRId64 " records\n", names[run], w.log.n);
        fflush(stdout);
        try_states(&w, (n_state + 2 - run) / 3);
        forget_runs(&w);
    }
    printf("seed %" PRIu64 ": %.1f s\n", w.seed, launch_clock() - begin);
    free(w.root);
    free(w.output);
    scene_close(&w.scene);
    return tally_end(&w.tally, "power loss");
}
