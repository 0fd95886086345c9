/* What a checkpoint was made of, held against a run that goes on: what differs is named, and may
 * differ only where it always may or the user says so. */
#include "tests/train/runs.h"

#include "finetune/train/identity.h"

/* Tables are written with ' for ". */
static json_t *parse(const char *text)
{
    char json[1024];
    const size_t n = strlen(text);
    assert_true(n < sizeof json);
    for (size_t i = 0; i <= n; i++)
        json[i] = text[i] == '\'' ? '"' : text[i];
    json_t *value = json_loads(json, 0, NULL);
    if (value == NULL)
        fail_msg("%s", text);
    return value;
}

#define NOW                                                                                        \
    "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7','threads':'1'},"                    \
    "'parts':{'documents':'d','validation':'v','program':'p','tokenizer':'t',"                     \
    "'files':[{'path':'a.jsonl','sha256':'1'},{'path':'b.jsonl','sha256':'2'}],"                   \
    "'validation_files':[{'path':'c.jsonl','sha256':'3'}]}}"
#define OTHER(value) ": was made with another value of " value
#define NEW_RUN "; set it back, or begin a new run"

static const struct {
    const char *saved, *allow;
    const char *message; /* behind the place, where there is one; NULL: it goes on */
    const char *changes;
} cases[] = {
    { NOW, NULL, NULL, NULL },
    /* What always may differ, and what only the checkpoint has. */
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7','threads':'4','gone':'x'},"
      "'parts':{'documents':'d','validation':'v','program':'p','tokenizer':'t','old':'o'}}",
      NULL, NULL, NULL },
    { "{'recipe':{'lora_r':'4','learning_rate':'0.01','seed':'7'},'parts':{}}", NULL,
      "out/x" OTHER("'lora_r': '4' there, '8' now") NEW_RUN, NULL },
    { "{'recipe':{'lora_r':'4','learning_rate':'0.01','seed':'7'},'parts':{}}", "learning_rate",
      "out/x" OTHER("'lora_r': '4' there, '8' now") NEW_RUN, NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.02','seed':'7'},'parts':{}}", NULL,
      "out/x" OTHER("'learning_rate': '0.02' there, '0.01' now") "; set it back, or allow it: "
                                                                 "--allow-change learning_rate",
      NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.02','seed':'7'},"
      "'parts':{'documents':'d','validation':'v','program':'q','tokenizer':'t'}}",
      " program,, learning_rate", NULL, "learning_rate: 0.02 -> 0.01\nprogram: q -> p\n" },
    /* A name is allowed as a whole. */
    { "{'recipe':{'lora_r':'8','learning_rate':'0.02','seed':'7'},'parts':{}}",
      "learning_rat,learning_rates",
      "out/x" OTHER("'learning_rate': '0.02' there, '0.01' now") "; set it back, or allow it: "
                                                                 "--allow-change learning_rate",
      NULL },
    /* What is not there, or is no text. */
    { "{}", NULL, "out/x" OTHER("'lora_r': '(not there)' there, '8' now") NEW_RUN, NULL },
    { "{'recipe':[],'parts':1}", NULL,
      "out/x" OTHER("'lora_r': '(not there)' there, '8' now") NEW_RUN, NULL },
    { "{'recipe':{'lora_r':8,'learning_rate':'0.01','seed':'7'},'parts':{}}", NULL,
      "out/x" OTHER("'lora_r': '(not there)' there, '8' now") NEW_RUN, NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7'}}", NULL,
      "a.jsonl: has changed: out/x" OTHER("the training documents: '(not there)' there, 'd' now")
          NEW_RUN,
      NULL },
    /* Of the data the file that is another one comes first. */
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7'},'parts':{'documents':'e',"
      "'files':[{'path':'a.jsonl','sha256':'1'},{'path':'b.jsonl','sha256':'3'}]}}",
      NULL,
      "b.jsonl: has changed: out/x" OTHER("the training documents: 'e' there, 'd' now") NEW_RUN,
      NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7'},'parts':{'documents':'e',"
      "'files':[{'path':'a.jsonl','sha256':'1'},{'path':'b.jsonl','sha256':'2'}]}}",
      NULL, "out/x" OTHER("the training documents: 'e' there, 'd' now") NEW_RUN, NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7'},'parts':{'documents':'e',"
      "'files':'none'}}",
      NULL,
      "a.jsonl: has changed: out/x" OTHER("the training documents: 'e' there, 'd' now") NEW_RUN,
      NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7'},'parts':{'documents':'d',"
      "'validation':'w','validation_files':[{'path':'c.jsonl','sha256':'4'}]}}",
      NULL,
      "c.jsonl: has changed: out/x" OTHER(
          "the validation documents: 'w' there, 'v' now") "; set it back, or allow it: "
                                                          "--allow-change validation",
      NULL },
    { "{'recipe':{'lora_r':'8','learning_rate':'0.01','seed':'7'},'parts':{'documents':'d',"
      "'validation':'v','program':'p','tokenizer':'u'}}",
      NULL, "out/x" OTHER("the base model's tokenizer: 'u' there, 't' now") NEW_RUN, NULL },
};

static void what_differs_is_named(void **state)
{
    (void)state;
    json_t *now = parse(NOW);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = { 0 };
        struct text changes = { 0 };
        json_t *saved = parse(cases[i].saved);
        const bool ok = identity_compare(saved, now, cases[i].allow, "out/x", &changes, &err);
        assert_string_equal(err.text, cases[i].message != NULL ? cases[i].message : "");
        assert_int_equal(ok, cases[i].message == NULL);
        assert_int_equal(err.code, ok ? ERR_NONE : ERR_RECIPE);
        if (ok)
            assert_string_equal(changes.data != NULL ? changes.data : "",
                                cases[i].changes != NULL ? cases[i].changes : "");
        text_free(&changes);
        json_decref(saved);
    }
    json_decref(now);
}

static void only_some_names_may_be_allowed(void **state)
{
    (void)state;
    struct err err = { 0 };
    assert_true(identity_check_allowed(NULL, &err) && identity_check_allowed("", &err));
    assert_true(identity_check_allowed(" learning_rate, max_steps,program ", &err));
    static const char *const wrong[][2] = {
        { "lora_r", "'lora_r' may not differ; expected some of: max_steps, " },
        { "max_steps seed", "'seed' may not differ; expected some of: " },
        { "learning_rate,threads", "'threads' may not differ" }, /* it may, without being asked */
        { "a_name_that_is_longer_than_any_key_and_longer_than_what_is_shown_of_it",
          "'a_name_that_is_longer_than_any_key_and_longer_than_what_is_show' may not differ" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        err = (struct err){ 0 };
        assert_false(identity_check_allowed(wrong[i][0], &err));
        assert_int_equal(err.code, ERR_USAGE);
        assert_true(text_starts_with(err.text, "command line: --allow-change: "));
        if (strstr(err.text, wrong[i][1]) == NULL)
            fail_msg("'%s' is not in '%s'", wrong[i][1], err.text);
    }
}

/* ---- of runs ---- */

/* As if the last of two checkpoints had never been written. */
static void forget_newest(const char *folder)
{
    char *path = runs_path(folder, "out/checkpoint-6", "manifest.json");
    assert_int_equal(remove(path), 0);
    free(path);
}

#define AGAIN "save_steps=3", "overwrite_output_dir=false", "resume_from_checkpoint=auto"

static void a_random_base_is_known_by_its_config(void **state)
{
    (void)state;
    struct run r;
    char *folder = runs_make("dense_mqa_tied"), base[600], other[600], *config = NULL;
    size_t n = 0;
    assert_true(
        file_read("tests/fixtures/models/dense_mqa_tied/config.json", 1 << 16, &config, &n, NULL));
    tiny_file_write(folder, "config.json", config, n);
    snprintf(base, sizeof base, "base_model=random:%s/config.json", folder);
    run_whole(folder, "straight", KEYS("save_steps=3", base));
    run_whole(folder, "out", KEYS("save_steps=3", base));
    forget_newest(folder);
    run_whole(folder, "out", KEYS(AGAIN, base));
    assert_true(runs_same_adapter(folder, "straight", "out"));
    tiny_file_write(folder, "other.json", config, n - 1); /* a line's end less */
    snprintf(other, sizeof other, "base_model=random:%s/other.json", folder);
    assert_false(run_try_open(&r, folder, "out", KEYS(AGAIN, other)));
    assert_non_null(strstr(r.err.text, "was made with another value of the base model: "));
    run_close(&r);
    free(config);
    tiny_scratch_remove(folder);
}

/* The tiny model's weights behind a header of that many bytes, with one space of it another one. */
static void write_padded(const char *path, size_t n_header, char space)
{
    char *bytes = NULL;
    size_t n = 0, n_json = 0;
    assert_true(file_read("tests/fixtures/models/dense_mqa_tied/model.safetensors", 1 << 24, &bytes,
                          &n, NULL));
    for (int i = 7; i >= 0; i--)
        n_json = n_json << 8 | (unsigned char)bytes[i];
    char *spaces = malloc(n_header);
    FILE *f = fopen(path, "wb");
    assert_true(spaces != NULL && f != NULL && n_header > n_json);
    memset(spaces, ' ', n_header);
    memcpy(spaces, bytes + 8, n_json);
    spaces[n_json] = space;
    for (int i = 0; i < 8; i++)
        assert_true(fputc((int)(n_header >> 8 * i & 0xFF), f) != EOF);
    assert_true(fwrite(spaces, 1, n_header, f) == n_header);
    assert_true(fwrite(bytes + 8 + n_json, 1, n - 8 - n_json, f) == n - 8 - n_json);
    assert_int_equal(fclose(f), 0);
    free(spaces);
    free(bytes);
}

static void flip_last_byte(const char *path)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -1, SEEK_END), 0);
    const int byte = fgetc(f);
    assert_true(byte != EOF);
    assert_int_equal(fseek(f, -1, SEEK_END), 0);
    assert_true(fputc(byte ^ 1, f) != EOF);
    assert_int_equal(fclose(f), 0);
}

/* Of a large file the header, small tensors and samples of large ones are read. */
static void a_large_file_is_known_by_its_head(void **state)
{
    enum { LARGE = 65 << 20 };
    (void)state;
    struct run r;
    char *folder = runs_make("dense_mqa_tied"), base[600], *config = NULL;
    char *path = runs_path(folder, "base", ""),
         *weights = runs_path(folder, "base", "model.safetensors");
    size_t n = 0;
    assert_true(file_make_directory(path, NULL));
    assert_true(
        file_read("tests/fixtures/models/dense_mqa_tied/config.json", 1 << 16, &config, &n, NULL));
    tiny_file_write(path, "config.json", config, n);
    write_padded(weights, LARGE, ' ');
    snprintf(base, sizeof base, "base_model=%s", path);
    run_whole(folder, "out", KEYS("save_steps=3", base));
    forget_newest(folder);
    run_whole(folder, "out", KEYS(AGAIN, base));
    flip_last_byte(weights); /* of a small tensor: those count whole */
    assert_false(run_try_open(&r, folder, "out", KEYS(AGAIN, base)));
    assert_non_null(strstr(r.err.text, "was made with another value of the base model: "));
    run_close(&r);
    flip_last_byte(weights);
    write_padded(weights, LARGE, '\n');
    assert_false(run_try_open(&r, folder, "out", KEYS(AGAIN, base)));
    assert_non_null(strstr(r.err.text, "was made with another value of the base model: "));
    run_close(&r);
    free(config);
    free(weights);
    free(path);
    tiny_scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_differs_is_named),
        cmocka_unit_test(only_some_names_may_be_allowed),
        cmocka_unit_test(a_random_base_is_known_by_its_config),
        cmocka_unit_test(a_large_file_is_known_by_its_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
