/* Paths that are no files: every reader says what is there instead, and with ERR_NO_INPUT, however
 * it came by the path; none of them waits for a FIFO's writer or follows a link for ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "datasets/source.h"
#include "datasets/template.h"
#include "datasets/tokenizer.h"
#include "finetune/model/config.h"
#include "finetune/model/shards.h"
#include "finetune/train/history.h"
#include "finetune/train/state.h"
#include "kernels/core/file.h"
#include "kernels/core/manifest.h"
#include "kernels/core/text.h"
#include "kernels/format/gguf.h"
#include "kernels/format/safetensors.h"
#include "lora/format_peft.h"
#include "recipes/recipe.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- the readers: each reads folder/name ---- */

typedef bool read_path(const char *folder, const char *path, struct err *err);

static bool read_recipe(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct recipe recipe = { 0 };
    struct recipe_report report = { 0 };
    const bool ok = recipe_load(path, NULL, 0, RECIPE_NEED_TRAIN, &recipe, &report);
    if (!ok)
        err_set(err, report.code, "%s", report.errors.item[0]);
    recipe_free(&recipe);
    recipe_report_free(&report);
    return ok;
}

static bool read_config(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct jamba_config config = { 0 };
    return jamba_config_read(path, &config, err);
}

static bool read_safetensors(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct safetensors st = { 0 };
    const bool ok = safetensors_open(path, &st, err);
    safetensors_close(&st);
    return ok;
}

static bool read_gguf(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    struct gguf g = { 0 };
    const bool ok = gguf_open(path, &g, err);
    gguf_close(&g);
    return ok;
}

static bool read_source(const char *folder, const char *path, struct err *err)
{
    (void)folder;
    json_t *record = NULL;
    struct source *s = source_open(path, err);
    const bool ok = s != NULL && source_next(s, &record, err) == SOURCE_RECORD;
    json_decref(record);
    source_close(s);
    return ok;
}

static bool read_tokenizer(const char *folder, const char *path, struct err *err)
{
    (void)path;
    struct tokenizer *tok = tokenizer_open(folder, err);
    tokenizer_free(tok);
    return tok != NULL;
}

static bool read_chosen_template(const char *folder, const char *path, struct err *err)
{
    const struct template_options options = { .model_dir = folder, .chosen = path };
    struct chat_template *t = template_open(&options, err);
    template_free(t);
    return t != NULL;
}

static bool read_found_template(const char *folder, const char *path, struct err *err)
{
    (void)path;
    return read_chosen_template(folder, NULL, err);
}

static bool read_shards(const char *folder, const char *path, struct err *err)
{
    (void)path;
    const struct jamba_config config = tiny_config();
    struct shards s = { 0 };
    const bool ok = shards_open(&s, folder, &config, err);
    shards_close(&s);
    return ok;
}

static bool read_adapter_config(const char *folder, const char *path, struct err *err)
{
    (void)path;
    struct lora_config config = { 0 };
    const bool ok = peft_read_config(folder, &config, err);
    lora_config_free(&config);
    return ok;
}

static bool read_adapter(const char *folder, const char *path, struct err *err)
{
    (void)path;
    struct lora_config config = { 0 };
    return peft_choices_from_tensors(folder, NULL, 0, &config, NULL, err);
}

static bool read_manifest(const char *folder, const char *path, struct err *err)
{
    (void)path;
    return manifest_check(folder, err);
}

/* A file that the manifest names. */
static bool read_named(const char *folder, const char *path, struct err *err)
{
    static const char text[] =
        "{\"format\": 1, \"files\": {\"x.bin\": {\"bytes\": 0, \"sha256\": \"\"}}}";
    (void)path;
    tiny_file_write(folder, MANIFEST_NAME, text, sizeof text - 1);
    return manifest_check(folder, err);
}

static bool read_state(const char *folder, const char *path, struct err *err)
{
    (void)path;
    json_t *state = state_read_json(folder, err);
    json_decref(state);
    return state != NULL;
}

static bool read_run(const char *folder, const char *path, struct err *err)
{
    (void)path;
    struct history history = { 0 };
    const bool ok = history_read(&history, folder, err);
    history_free(&history);
    return ok;
}

/* ---- what can stand at a path ---- */

static void make_folder(const char *path)
{
    assert_int_equal(mkdir(path, 0777), 0);
}

static void make_fifo(const char *path)
{
    assert_int_equal(mkfifo(path, 0666), 0);
}

static void make_socket(const char *path)
{
    assert_int_equal(mknod(path, S_IFSOCK | 0666, 0), 0);
}

static void make_device_link(const char *path)
{
    assert_int_equal(symlink("/dev/zero", path), 0);
}

static void make_link_to_itself(const char *path)
{
    assert_int_equal(symlink(path, path), 0);
}

static void make_unreadable(const char *path)
{
    const int fd = open(path, O_WRONLY | O_CREAT, 0);
    assert_true(fd >= 0);
    close(fd);
}

static const struct kind {
    const char *what;
    void (*make)(const char *path);
    const char *message;
} kinds[] = {
    { "folder", make_folder, "is a directory; expected a regular file" },
    { "FIFO", make_fifo, "is not a regular file; expected a regular file" },
    { "socket", make_socket, "No such device or address" },
    { "device", make_device_link, "is not a regular file; expected a regular file" },
    { "link to itself", make_link_to_itself, "Too many levels of symbolic links" },
    { "unreadable file", make_unreadable, "Permission denied" },
};

/* A reader, and the file of the folder that stands in its way. */
static const struct {
    const char *what;
    read_path *read;
    const char *name;
} readers[] = {
    { "recipe", read_recipe, "x.yaml" },
    { "config", read_config, "config.json" },
    { "safetensors", read_safetensors, "x.safetensors" },
    { "GGUF", read_gguf, "x.gguf" },
    { "records", read_source, "x.jsonl" },
    { "gzip", read_source, "x.jsonl.gz" },
    { "tokenizer", read_tokenizer, "tokenizer.json" },
    { "template", read_chosen_template, "x.jinja" },
    { "checkpoint's template", read_found_template, "chat_template.jinja" },
    { "tokenizer's settings", read_found_template, "tokenizer_config.json" },
    { "weights", read_shards, "model.safetensors" },
    { "index", read_shards, "model.safetensors.index.json" },
    { "adapter's config", read_adapter_config, "adapter_config.json" },
    { "adapter's tensors", read_adapter, "adapter_model.safetensors" },
    { "manifest", read_manifest, MANIFEST_NAME },
    { "file of a manifest", read_named, "x.bin" },
    { "checkpoint's state", read_state, STATE_NAME },
    { "run's facts", read_run, "run.json" },
    { "run's log", read_run, "metrics.jsonl" },
};

/* Who may read everything is nobody for a while, for a file that may not be read. */
static bool read_as_nobody(size_t r, const char *folder, const char *path, struct err *err)
{
    enum { NOBODY = 65534 };
    const bool is_root = geteuid() == 0;
    assert_int_equal(chmod(folder, 0777), 0);
    assert_true(!is_root || seteuid(NOBODY) == 0);
    alarm(10); /* one that waits ends the test */
    const bool ok = readers[r].read(folder, path, err);
    alarm(0);
    assert_true(!is_root || seteuid(0) == 0);
    return ok;
}

static void try_reader(size_t r, const struct kind *kind)
{
    char *folder = tiny_scratch_make();
    char *path = file_join(folder, readers[r].name);
    assert_non_null(path);
    kind->make(path);
    struct err err = { 0 };
    const bool ok = read_as_nobody(r, folder, path, &err);
    const bool is_data_folder = readers[r].read == read_source && kind->make == make_folder;
    const char *message =
        is_data_folder ? "has no data; expected *.jsonl or *.json files" : kind->message;
    if (ok || err.code != ERR_NO_INPUT || strstr(err.text, message) == NULL ||
        strstr(err.text, folder) == NULL)
        fail_msg("%s that is a %s: %d: %s", readers[r].what, kind->what, (int)err.code, err.text);
    if (remove(path) != 0)
        fail_msg("%s: %s", path, strerror(errno));
    free(path);
    tiny_scratch_remove(folder);
}

static void what_is_no_file_is_named(void **state)
{
    (void)state;
    for (size_t r = 0; r < COUNT(readers); r++) {
        for (size_t k = 0; k < COUNT(kinds); k++)
            try_reader(r, &kinds[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
