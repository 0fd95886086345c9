/* Checkpoints that were damaged: whatever byte, length or file it is, it is told by name, and the
 * checkpoint before is taken. */
#include "tests/train/runs.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finetune/train/checkpoint.h"
#include "finetune/train/save.h"

static const char *const files[] = { "adapter_config.json", "adapter_model.safetensors",
                                     "manifest.json", "recipe.yaml", "training_state.safetensors" };
enum { N_FILE = sizeof files / sizeof *files };

/* A run of three steps with a checkpoint after each of the last two: folder/out. */
static char *make_run(void)
{
    char *folder = runs_make("dense_mqa_tied");
    run_whole(folder, "out",
              KEYS("max_steps=3", "save_steps=1", "lora_r=1", "lora_target_modules=[q_proj]"));
    return folder;
}

/* The newest of out is of this step, and the notes hold `text`. */
static void expect_found(const char *out, int step, const char *text)
{
    struct err err = { 0 };
    struct text notes = { 0 };
    char *dir = NULL, want[32];
    REQUIRE(checkpoint_find(out, &dir, &notes, &err));
    assert_non_null(dir);
    snprintf(want, sizeof want, "/checkpoint-%d", step);
    if (!text_ends_with(dir, want))
        fail_msg("%s was taken, not %s; %s", dir, want, notes.data != NULL ? notes.data : "");
    if (text != NULL && (notes.data == NULL || strstr(notes.data, text) == NULL))
        fail_msg("'%s' is not in '%s'", text, notes.data != NULL ? notes.data : "");
    text_free(&notes);
    free(dir);
}

struct bytes {
    char *data;
    size_t n;
};

static struct bytes read_bytes(const char *path)
{
    struct bytes b = { 0 };
    struct err err = { 0 };
    REQUIRE(file_read(path, 1 << 24, &b.data, &b.n, &err));
    return b;
}

/* In place, without sync: thousands of them. */
static void write_bytes(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_true(fwrite(data, 1, n, f) == n);
    assert_int_equal(fclose(f), 0);
}

/* ---- each byte, each length ---- */

static void a_flipped_bit_anywhere_is_found_and_the_one_before_is_taken(void **state)
{
    (void)state;
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    int64_t n_flip = 0;
    for (int i = 0; i < N_FILE; i++) {
        char *newest = runs_path(folder, "out/checkpoint-3", files[i]);
        const struct bytes b = read_bytes(newest);
        for (size_t at = 0; at < b.n; at++, n_flip++) {
            b.data[at] = (char)(b.data[at] ^ 1 << (at * 7 + at / 8) % 8);
            write_bytes(newest, b.data, b.n);
            struct err err = { 0 };
            char *dir = runs_path(folder, "out", "checkpoint-3");
            if (checkpoint_verify(dir, &err))
                fail_msg("byte %zu of %s", at, files[i]);
            assert_non_null(strstr(err.text, "checkpoint-3/"));
            assert_int_equal(err.code, ERR_DATA);
            free(dir);
            b.data[at] = (char)(b.data[at] ^ 1 << (at * 7 + at / 8) % 8);
        }
        b.data[0] ^= 1;
        write_bytes(newest, b.data, b.n);
        expect_found(out, 2, "; checkpoint-3 is passed over\n");
        b.data[0] ^= 1;
        write_bytes(newest, b.data, b.n);
        free(b.data);
        free(newest);
    }
    expect_found(out, 3, NULL);
    print_message("%d cases, 0 silent\n", (int)n_flip);
    assert_true(n_flip > 5000);
    free(out);
    tiny_scratch_remove(folder);
}

static void any_other_length_is_found(void **state)
{
    (void)state;
    char *folder = make_run(), *dir = runs_path(folder, "out", "checkpoint-3");
    for (int i = 0; i < N_FILE; i++) {
        char *path = runs_path(folder, "out/checkpoint-3", files[i]);
        const struct bytes b = read_bytes(path);
        for (size_t n = 0; n <= b.n + 1; n++) {
            struct err err = { 0 };
            if (n == b.n) /* the terminator that file_read put behind makes one byte more */
                continue;
            write_bytes(path, b.data, n);
            if (checkpoint_verify(dir, &err))
                fail_msg("%zu of %zu bytes of %s", n, b.n, files[i]);
            assert_int_equal(err.code, ERR_DATA);
        }
        write_bytes(path, b.data, b.n);
        free(b.data);
        free(path);
    }
    assert_true(checkpoint_verify(dir, NULL));
    free(dir);
    tiny_scratch_remove(folder);
}

/* ---- files ---- */

static void a_missing_or_swapped_file_is_named(void **state)
{
    (void)state;
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    for (int i = 0; i < N_FILE; i++) {
        char *path = runs_path(folder, "out/checkpoint-3", files[i]);
        char *older = runs_path(folder, "out/checkpoint-2", files[i]);
        const struct bytes mine = read_bytes(path), other = read_bytes(older);
        assert_int_equal(remove(path), 0);
        expect_found(out, 2, files[i]);
        assert_int_equal(mkdir(path, 0777), 0); /* something else by that name */
        expect_found(out, 2, files[i]);
        assert_int_equal(rmdir(path), 0);
        write_bytes(path, other.data, other.n);
        const bool same = mine.n == other.n && memcmp(mine.data, other.data, mine.n) == 0;
        expect_found(out, same ? 3 : 2, NULL); /* config and recipe are every step's */
        write_bytes(path, mine.data, mine.n);
        free(mine.data);
        free(other.data);
        free(path);
        free(older);
    }
    expect_found(out, 3, NULL);
    free(out);
    tiny_scratch_remove(folder);
}

static void unfinished_ones_are_no_checkpoints_and_go_with_the_next(void **state)
{
    (void)state;
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    struct err err = { 0 };
    static const char *const names[] = { "checkpoint-4.tmp", "checkpoint-04", "checkpoint-",
                                         "checkpoint-x", "checkpoint-99999999999999999999" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = runs_path(folder, "out", names[i]);
        REQUIRE(file_make_directory(path, &err));
        free(path);
    }
    tiny_file_write(folder, "out/checkpoint-4.tmp/adapter_config.json", "{", 1);
    expect_found(out, 3, NULL);
    REQUIRE(checkpoint_prune(out, 1, 3, &err));
    char *partial = runs_path(folder, "out", names[0]),
         *old = runs_path(folder, "out", "checkpoint-2");
    char *odd = runs_path(folder, "out", names[1]);
    assert_false(file_exists(partial));
    assert_false(file_exists(old));
    assert_true(file_exists(odd)); /* none of ours */
    free(partial);
    free(old);
    free(odd);
    free(out);
    tiny_scratch_remove(folder);
}

/* Links are removed, never followed; what others put into a checkpoint goes with it. */
static void nothing_outside_is_removed(void **state)
{
    (void)state;
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    struct err err = { 0 };
    char *older = runs_path(folder, "out", "checkpoint-2"), *kept = runs_path(folder, "kept", "");
    char *inside = runs_path(folder, "out", "checkpoint-1/.notes/more");
    char *link = runs_path(folder, "out", "checkpoint-1/.notes/link");
    kept[strlen(kept) - 1] = '\0';
    assert_int_equal(rename(older, kept), 0);
    assert_int_equal(symlink(kept, older), 0);
    REQUIRE(file_make_directory(inside, &err));
    assert_int_equal(symlink(kept, link), 0);
    REQUIRE(checkpoint_prune(out, 1, 3, &err));
    struct checkpoint_list list;
    REQUIRE(checkpoint_list(out, &list, &err));
    assert_true(list.n == 1 && list.steps[0] == 3);
    checkpoint_list_free(&list);
    REQUIRE(checkpoint_verify(kept, &err)); /* all of it is there */
    free(older);
    free(kept);
    free(inside);
    free(link);
    free(out);
    tiny_scratch_remove(folder);
}

static void move(const char *out, const char *from, const char *to)
{
    char *a = file_join(out, from), *b = file_join(out, to);
    assert_int_equal(rename(a, b), 0);
    free(a);
    free(b);
}

/* Where a file system cannot exchange two folders the old one steps aside first. */
static void a_replacing_that_was_cut_short_is_settled(void **state)
{
    (void)state;
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    struct err err = { 0 };
    move(out, "checkpoint-3", "checkpoint-3.replaced"); /* before the new one was in place */
    REQUIRE(checkpoint_settle(out, &err));
    expect_found(out, 3, NULL);
    move(out, "checkpoint-2", "checkpoint-3.replaced"); /* after it */
    REQUIRE(checkpoint_settle(out, &err));
    expect_found(out, 3, NULL);
    char *old = file_join(out, "checkpoint-3.replaced");
    assert_false(file_exists(old));
    /* A run that begins does it. */
    move(out, "checkpoint-3", "checkpoint-3.replaced");
    struct run r;
    run_open(&r, folder, "out",
             KEYS("max_steps=3", "save_steps=1", "lora_r=1", "lora_target_modules=[q_proj]",
                  "resume_from_checkpoint=auto"));
    assert_true(text_ends_with(r.t.resumed, "/checkpoint-3"));
    run_close(&r);
    free(old);
    free(out);
    tiny_scratch_remove(folder);
}

/* Linked with --wrap=renameat2: some file systems have no exchange. */
int __real_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags);
static bool cannot_exchange;
static int n_exchange;

int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    n_exchange++;
    if (!cannot_exchange)
        return __real_renameat2(a, from, b, to, flags);
    errno = EINVAL;
    return -1;
}

/* The last checkpoint of a run is written once more. */
static void one_that_is_there_is_replaced_on_any_file_system(void **state)
{
    (void)state;
    char *folder = runs_make("dense_mqa_tied"), *out = runs_path(folder, "out", "");
    char *inside = runs_path(folder, "out", "checkpoint-3/notes");
    for (int i = 0; i < 2; i++) {
        struct run r;
        struct err err = { 0 };
        run_open(&r, folder, "out", KEYS("max_steps=3", "save_steps=1"));
        assert_true(run_go(&r, NULL));
        tiny_file_write(folder, "out/checkpoint-3/notes", "x", 1); /* the old one's */
        cannot_exchange = i == 1;
        n_exchange = 0;
        r.t.saving = -1;
        REQUIRE(trainer_save_checkpoint(&r.t, &err) && saver_finish(&r.t.saver, &err));
        cannot_exchange = false;
        assert_int_equal(n_exchange, 1);
        run_close(&r);
        expect_found(out, 3, NULL);
        assert_false(file_exists(inside));
        char *old = runs_path(folder, "out", "checkpoint-3.replaced");
        assert_false(file_exists(old));
        free(old);
    }
    free(inside);
    free(out);
    tiny_scratch_remove(folder);
}

/* ---- folders that are none, or not ours ---- */

static void what_is_no_folder_is_told(void **state)
{
    (void)state;
    char *folder = tiny_scratch_make(), *file = file_join(folder, "file"), *dir = NULL;
    char message[ERR_TEXT_SIZE];
    tiny_file_write(folder, "file", "x", 1);
    for (int i = 0; i < 6; i++) {
        struct err err = { 0 };
        struct text notes = { 0 };
        struct checkpoint_list list;
        const bool ok = i == 0   ? checkpoint_list(file, &list, &err)
                        : i == 1 ? checkpoint_find(file, &dir, &notes, &err)
                        : i == 2 ? checkpoint_prune(file, 1, 1, &err)
                        : i == 3 ? checkpoint_remove_all(file, &err)
                        : i == 4 ? checkpoint_settle(file, &err)
                                 : checkpoint_set_aside(file, 1, &err);
        assert_false(ok);
        tiny_message(message, &err, folder);
        assert_string_equal(message, "DIR/file: is no folder; set another output_dir");
        assert_int_equal(err.code, ERR_CANT_CREATE);
        assert_null(dir);
        text_free(&notes);
    }
    free(file);
    tiny_scratch_remove(folder);
}

/* As another user: the checkpoint's own folder, or the one around it, is not to be written to. */
static void what_cannot_be_removed_is_told(void **state)
{
    enum { NOBODY = 65534, ANYONE = 0777, OTHERS_READ = 0755 };
    (void)state;
    static const struct {
        mode_t around, own;
        const char *message;
    } cases[] = {
        { OTHERS_READ, OTHERS_READ, "DIR/checkpoint-1: cannot be removed: Permission denied" },
        { ANYONE, OTHERS_READ, "DIR/checkpoint-1.tmp: cannot be removed: Permission denied" },
        { ANYONE, 0700, "DIR/checkpoint-1.tmp: cannot be removed: Permission denied" },
    };
    const bool is_root = geteuid() == 0;
    for (size_t i = 0; is_root && i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        char *folder = tiny_scratch_make(), *own = file_join(folder, "checkpoint-1");
        char message[ERR_TEXT_SIZE];
        assert_int_equal(mkdir(own, 0777), 0);
        tiny_file_write(own, "file", "x", 1);
        assert_true(chmod(own, cases[i].own) == 0 && chmod(folder, cases[i].around) == 0);
        assert_int_equal(seteuid(NOBODY), 0);
        const bool ok = checkpoint_remove_all(folder, &err);
        assert_int_equal(seteuid(0), 0);
        assert_false(ok);
        tiny_message(message, &err, folder);
        assert_string_equal(message, cases[i].message);
        assert_int_equal(err.code, ERR_IO);
        free(own);
        tiny_scratch_remove(folder);
    }
}

/* A folder named for another step is none to go on from, and steps aside. */
static void one_under_another_name_is_passed_over(void **state)
{
    (void)state;
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    move(out, "checkpoint-3", "checkpoint-7");
    expect_found(out, 2,
                 "checkpoint-7: is of step 3, not of the one it is named for; checkpoint-7 is "
                 "passed over");
    run_whole(folder, "out",
              KEYS("max_steps=3", "save_steps=1", "lora_r=1", "lora_target_modules=[q_proj]",
                   "resume_from_checkpoint=auto"));
    expect_found(out, 3, NULL);
    char *aside = file_join(out, "checkpoint-7.damaged");
    assert_true(file_is_directory(aside));
    free(aside);
    free(out);
    tiny_scratch_remove(folder);
}

static void damaged_ones_alone_are_an_error(void **state)
{
    (void)state;
    char *folder = make_run(), have[ERR_TEXT_SIZE];
    for (int step = 2; step <= 3; step++) {
        char name[64];
        snprintf(name, sizeof name, "out/checkpoint-%d", step);
        char *path = runs_path(folder, name, "adapter_model.safetensors");
        write_bytes(path, "x", 1);
        free(path);
    }
    struct run r;
    assert_false(run_try_open(&r, folder, "out",
                              KEYS("max_steps=3", "save_steps=1", "lora_r=1",
                                   "lora_target_modules=[q_proj]", "resume_from_checkpoint=auto")));
    tiny_message(have, &r.err, folder);
    assert_int_equal(r.err.code, ERR_DATA);
    assert_non_null(strstr(
        have, "DIR/out: none of its 2 checkpoints is whole; --overwrite begins anew. The oldest: "
              "DIR/out/checkpoint-2/adapter_model.safetensors: is damaged: it "
              "has 1 bytes, the manifest says "));
    run_close(&r);
    tiny_scratch_remove(folder);
}

/* The run goes on from the one before, makes the damaged one again, and keeps it aside. */
static void a_run_goes_on_past_a_damaged_one(void **state)
{
    (void)state;
#define SMALL "save_steps=1", "lora_r=1", "lora_target_modules=[q_proj]"
    char *folder = make_run(), *out = runs_path(folder, "out", "");
    run_whole(folder, "straight", KEYS("max_steps=3", SMALL));
    char *path = runs_path(folder, "out/checkpoint-3", "training_state.safetensors");
    write_bytes(path, "", 0);
    struct run r;
    run_open(&r, folder, "out", KEYS("max_steps=3", SMALL, "resume_from_checkpoint=auto"));
    assert_true(text_ends_with(r.t.resumed, "/checkpoint-2"));
    assert_non_null(strstr(r.t.notes.data, "checkpoint-3 is passed over"));
    if (!run_go(&r, NULL))
        fail_msg("%s", r.err.text);
    run_close(&r);
    assert_true(runs_same_adapter(folder, "straight", "out"));
    expect_found(out, 3, NULL);
    char *aside = runs_path(folder, "out", "checkpoint-3.damaged");
    assert_true(file_is_directory(aside));
    free(aside);
    free(path);
    free(out);
    tiny_scratch_remove(folder);
}

/* An older one is gone on from when it is named, unless newer ones are whole: they would be mixed.
 */
static void a_named_older_one_needs_the_newer_ones_moved_away(void **state)
{
    (void)state;
    char *folder = make_run(), key[600], have[ERR_TEXT_SIZE];
    char *older = runs_path(folder, "out", "checkpoint-2");
    struct run r;
    snprintf(key, sizeof key, "resume_from_checkpoint=%s", older);
    run_open(&r, folder, "out", KEYS("max_steps=3", SMALL, key));
    assert_false(run_go(&r, NULL));
    tiny_message(have, &r.err, folder);
    assert_int_equal(r.err.code, ERR_CANT_CREATE);
    assert_non_null(strstr(have, "/checkpoint-3: is newer than the checkpoint to go on from; go on "
                                 "from this one, or move it away"));
    run_close(&r);
    free(older);
    tiny_scratch_remove(folder);
}

/* ---- a disk that is full ---- */

static void too_little_room_is_told_before_anything_is_written(void **state)
{
    (void)state;
    struct err err = { 0 };
    char *folder = tiny_scratch_make();
    assert_true(file_check_space(folder, 1, &err));
    assert_false(file_check_space(folder, (size_t)1 << 60, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.text, "needed are 1048576.0 TiB; make room"));
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit_anywhere_is_found_and_the_one_before_is_taken),
        cmocka_unit_test(any_other_length_is_found),
        cmocka_unit_test(a_missing_or_swapped_file_is_named),
        cmocka_unit_test(unfinished_ones_are_no_checkpoints_and_go_with_the_next),
        cmocka_unit_test(nothing_outside_is_removed),
        cmocka_unit_test(a_replacing_that_was_cut_short_is_settled),
        cmocka_unit_test(one_that_is_there_is_replaced_on_any_file_system),
        cmocka_unit_test(what_is_no_folder_is_told),
        cmocka_unit_test(what_cannot_be_removed_is_told),
        cmocka_unit_test(one_under_another_name_is_passed_over),
        cmocka_unit_test(damaged_ones_alone_are_an_error),
        cmocka_unit_test(a_run_goes_on_past_a_damaged_one),
        cmocka_unit_test(a_named_older_one_needs_the_newer_ones_moved_away),
        cmocka_unit_test(too_little_room_is_told_before_anything_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
