/* The commands of the program on the scene's tiny job, each with what it must give. */
#ifndef TESTS_FAULT_JOBS_H
#define TESTS_FAULT_JOBS_H

#include "tests/fault/scene.h"

struct job {
    const char *name;
    const char *args[12]; /* '@' stands for the scene's folder */
    const char *writes;   /* a file or folder in the scene, or NULL */
    const char *input;    /* of stdin, likewise */
    bool trains;          /* writes out/, in which a run can be gone on with */
    bool goes_on;         /* needs a run in out/ that was stopped on its way */
    bool varies;          /* the numbers in what it prints and writes are never the same twice */
    bool again;           /* is gone on with by the same command; prints of more than one run */
    int rarely;           /* takes long: one of so many cases is enough; 0: all are tried */
    const char *same[6];  /* of a folder that it writes, the files that are compared; none: all */
};

extern const struct job jobs[];
extern const int n_job;

/* What a job gives when nothing fails. */
struct job_result {
    char *out;
    struct tree written;
};

/* The job's command line in l->args; the array is the caller's, its texts are freed by job_free. */
struct job_line {
    const char *args[13];
    char *texts[13];
    char *input;
};
void job_line(const struct scene *s, const struct job *job, struct job_line *line);
void job_line_free(struct job_line *line);

/* Puts the scene as the job wants it: nothing written yet, or a run half done (`half`, out/ as a
 * tree). */
void job_prepare(const struct scene *s, const struct job *job, const struct tree *half);

/* out/ of a run that was killed at the save after checkpoint-2's. */
void job_make_half(const struct scene *s, struct tree *half);

/* Runs it undisturbed. False: the program has no such command, or not yet. */
bool job_expect(const struct scene *s, const struct job *job, const struct tree *half,
                struct job_result *result);

/* Compares a run that said 0 with what was expected. */
void job_check(const struct scene *s, const struct job *job, const struct job_result *want,
               const struct landing *r, struct tally *t, const char *what);

/* Runs the job again after a failure, undisturbed, where that is how it is gone on with. */
void job_finish(const struct scene *s, const struct job *job, const struct job_result *want,
                struct tally *t, const char *what);

/* The line of stderr that tells why a job failed, "jambatune: ..."; NULL: there is none. */
const char *job_reason(const struct job *job, const char *err);
void job_result_free(struct job_result *result);

#endif
