/* A run's hold on its folder: one at a time, with the kernel's locks and where there are none; a
 * lock that was taken away; what a killed run left. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "finetune/train/output.h"
#include "kernels/core/file.h"
#include "kernels/core/text.h"
#include "tests/support/support.h"
#include "tests/support/tiny_checkpoint.h"

static bool no_locks; /* as on file systems that have none */

int flock(int fd, int operation)
{
    if (no_locks) {
        errno = ENOLCK;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, operation);
}

/* ---- pieces ---- */

static char *in(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    assert_non_null(path);
    return path;
}

static bool there(const char *folder, const char *name)
{
    char *path = in(folder, name);
    const bool is = file_exists(path);
    free(path);
    return is;
}

static void expect_refused(const char *folder, const char *part)
{
    struct output second;
    struct err err = { 0 };
    assert_false(output_lock(&second, folder, &err));
    assert_int_equal(err.code, ERR_CANT_CREATE);
    if (strstr(err.text, part) == NULL)
        fail_msg("'%s' is not in '%s'", part, err.text);
}

static void lock(struct output *o, const char *folder)
{
    struct err err = { 0 };
    if (!output_lock(o, folder, &err))
        fail_msg("%s", err.text);
}

/* What a process leaves that is gone: its exclusive file, with its number in it. */
static void leave_dead_owner(const char *folder)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct output o;
        no_locks = true;
        _exit(output_lock(&o, folder, NULL) ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(there(folder, "run.lock.exclusive"));
}

/* ---- one at a time ---- */

static void a_second_run_is_refused_and_the_first_named(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), part[64];
    struct output o;
    lock(&o, folder);
    snprintf(part, sizeof part, "is in use by another run (process %ld on ", (long)getpid());
    expect_refused(folder, part);
    output_unlock(&o);
    lock(&o, folder);
    output_unlock(&o);
    tiny_scratch_remove(folder);
}

static void without_locks_a_file_stands_for_them(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make();
    struct output o;
    no_locks = true;
    lock(&o, folder);
    expect_refused(folder, "Locks do not work there: if that run is dead, remove ");
    output_unlock(&o);
    assert_false(there(folder, "run.lock.exclusive"));
    leave_dead_owner(folder);
    lock(&o, folder);
    expect_refused(folder, "is in use by another run");
    assert_false(there(folder, "run.lock.exclusive.takeover"));
    output_unlock(&o);
    no_locks = false;
    tiny_scratch_remove(folder);
}

enum { N_RACER = 8 };

/* Winners keep the folder until all have tried. */
static int race(const char *folder)
{
    int gate[2], ready[2], winners = 0;
    pid_t pids[N_RACER];
    char byte = 0;
    assert_int_equal(pipe(gate), 0);
    assert_int_equal(pipe(ready), 0);
    for (int i = 0; i < N_RACER; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] != 0)
            continue;
        struct output o;
        close(gate[1]);
        const bool won = output_lock(&o, folder, NULL);
        if (write(ready[1], won ? "w" : "l", 1) != 1 || read(gate[0], &byte, 1) < 0)
            _exit(2);
        _exit(won ? 0 : 1);
    }
    for (int i = 0; i < N_RACER; i++) {
        assert_int_equal(read(ready[0], &byte, 1), 1);
        winners += byte == 'w';
    }
    close(gate[1]);
    for (int i = 0; i < N_RACER; i++)
        waitpid(pids[i], NULL, 0);
    close(gate[0]);
    close(ready[0]);
    close(ready[1]);
    return winners;
}

static void of_many_that_find_a_dead_owner_one_wins(void **state)
{
    (void)state;
    no_locks = true;
    for (int round = 0; round < 40; round++) {
        char *folder = tiny_scratch_make();
        leave_dead_owner(folder);
        assert_int_equal(race(folder), 1);
        tiny_scratch_remove(folder);
    }
    no_locks = false;
}

/* ---- while it runs ---- */

static void a_lock_removed_by_hand_is_made_again(void **state)
{
    (void)state;
    static const struct {
        bool locks;
        const char *removed;
    } cases[] = { { true, "run.lock" }, { false, "run.lock" }, { false, "run.lock.exclusive" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = tiny_scratch_make(), *path = in(folder, cases[i].removed);
        struct output o;
        struct err err = { 0 };
        no_locks = !cases[i].locks;
        lock(&o, folder);
        assert_true(output_check(&o, folder, &err));
        assert_int_equal(unlink(path), 0);
        if (!output_check(&o, folder, &err))
            fail_msg("%s", err.text);
        assert_true(file_exists(path));
        expect_refused(folder, "is in use by another run");
        output_unlock(&o);
        lock(&o, folder);
        output_unlock(&o);
        no_locks = false;
        free(path);
        tiny_scratch_remove(folder);
    }
}

static void a_folder_that_another_run_took_is_told(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = in(folder, "run.lock");
    struct output first, second;
    struct err err = { 0 };
    lock(&first, folder);
    assert_int_equal(unlink(path), 0);
    lock(&second, folder);
    assert_false(output_check(&first, folder, &err));
    assert_int_equal(err.code, ERR_CANT_CREATE);
    assert_true(text_starts_with(err.text, "run.lock was removed while the run was going: "));
    assert_non_null(strstr(err.text, "is in use by another run"));
    assert_true(output_check(&second, folder, &err));
    output_unlock(&first);
    output_unlock(&second);
    free(path);
    tiny_scratch_remove(folder);
}

/* Without locks, too, and what the other has put there stays. */
static void an_exclusive_file_of_another_run_is_told(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *path = in(folder, "run.lock.exclusive");
    struct output first, second;
    struct err err = { 0 };
    no_locks = true;
    lock(&first, folder);
    assert_int_equal(unlink(path), 0);
    lock(&second, folder);
    assert_false(output_check(&first, folder, &err));
    assert_int_equal(err.code, ERR_CANT_CREATE);
    output_unlock(&first);
    assert_true(output_check(&second, folder, &err));
    assert_true(file_exists(path));
    output_unlock(&second);
    assert_false(file_exists(path));
    no_locks = false;
    free(path);
    tiny_scratch_remove(folder);
}

static void a_folder_that_was_moved_ends_the_run(void **state)
{
    (void)state;
    for (int removed = 0; removed < 2; removed++) {
        char *folder = tiny_scratch_make(), *out = in(folder, "out"), *other = in(folder, "other");
        char *path = in(out, "run.lock");
        struct output o;
        struct err err = { 0 };
        lock(&o, out);
        if (removed)
            assert_true(unlink(path) == 0 && rmdir(out) == 0);
        else
            assert_int_equal(rename(out, other), 0);
        assert_false(output_check(&o, out, &err));
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.text, "was moved or removed while the run was going"));
        assert_false(file_exists(out));
        output_unlock(&o);
        free(path);
        free(out);
        free(other);
        tiny_scratch_remove(folder);
    }
}

/* A disk that is full leaves no file that names nobody. */
static void an_exclusive_file_is_whole_or_not_there(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make();
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct output o;
        no_locks = true;
        signal(SIGXFSZ, SIG_IGN);
        const struct rlimit none = { 0, 0 };
        if (setrlimit(RLIMIT_FSIZE, &none) != 0)
            _exit(2);
        _exit(output_lock(&o, folder, NULL) ? 1 : 0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct output o;
    no_locks = true;
    lock(&o, folder);
    output_unlock(&o);
    no_locks = false;
    tiny_scratch_remove(folder);
}

/* ---- what a killed run left ---- */

static void half_written_files_of_ours_go_and_no_others(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool stays;
    } files[] = {
        { "adapter_model.safetensors.tmp.123", false },
        { "adapter_config.json.tmp.4", false },
        { "recipe.yaml.tmp.99999", false },
        { "run.json.tmp.1", false },
        { "best/adapter_model.safetensors.tmp.123", false },
        { "adapter_model.safetensors", true },
        { "adapter_model.safetensors.tmp.", true },
        { "adapter_model.safetensors.tmp.12a", true },
        { "adapter_model.safetensors.tmp.123.old", true },
        { "report.html.tmp.123", true },
        { "mine.tmp.123", true },
    };
    struct err err = { 0 };
    char *folder = tiny_scratch_make(), *best = in(folder, "best");
    assert_true(output_clear_temporaries(folder, &err)); /* without best/ */
    assert_true(file_make_directory(best, &err));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        tiny_file_write(folder, files[i].name, "x", 1);
    assert_true(output_clear_temporaries(folder, &err));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (there(folder, files[i].name) != files[i].stays)
            fail_msg("%s", files[i].name);
    }
    free(best);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_run_is_refused_and_the_first_named),
        cmocka_unit_test(without_locks_a_file_stands_for_them),
        cmocka_unit_test(of_many_that_find_a_dead_owner_one_wins),
        cmocka_unit_test(a_lock_removed_by_hand_is_made_again),
        cmocka_unit_test(a_folder_that_another_run_took_is_told),
        cmocka_unit_test(an_exclusive_file_of_another_run_is_told),
        cmocka_unit_test(a_folder_that_was_moved_ends_the_run),
        cmocka_unit_test(an_exclusive_file_is_whole_or_not_there),
        cmocka_unit_test(half_written_files_of_ours_go_and_no_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
