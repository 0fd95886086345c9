/* A recipe: what loads is dumped, and the dump loads to the same values. What follows a zero byte
 * is an override of the command line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/report/settings.h"
#include "kernels/core/text.h"
#include "recipes/recipe.h"
#include "tests/fuzz/fuzz.h"

static bool load(const char *path, const char *override, struct recipe *recipe, struct err *err)
{
    struct recipe_report report = { 0 };
    const bool ok =
        recipe_load(path, &override, override != NULL, RECIPE_NEED_NOTHING, recipe, &report);
    FUZZ_CHECK(ok == (report.errors.n == 0) && ok == (report.code == ERR_NONE));
    for (int64_t i = 0; i < report.errors.n; i++)
        FUZZ_CHECK(text_is_utf8(report.errors.item[i], strlen(report.errors.item[i]), NULL));
    if (!ok)
        err_set(err, report.code, "%s", report.errors.item[0]);
    recipe_report_free(&report);
    return ok;
}

/* The values of a dump, as a report reads them: where they come from is not in the second one. */
static void values_of(const struct recipe *recipe, struct text *dump, struct text *out)
{
    struct settings settings = { 0 };
    recipe_dump(recipe, dump);
    FUZZ_CHECK(!dump->failed && settings_parse(&settings, text_copy(dump->data), NULL));
    FUZZ_CHECK(settings.n == recipe_n_key());
    for (int64_t i = 0; i < settings.n; i++) {
        const struct setting *setting = &settings.items[i];
        FUZZ_CHECK(strcmp(setting->key, recipe_key((int)i)) == 0 && setting->origin[0] != '\0');
        text_printf(out, "%s: %s\n", setting->key, setting->value);
    }
    settings_free(&settings);
}

bool fuzz_recipe(const uint8_t *bytes, size_t n, struct err *err)
{
    const struct fuzz_pair in = fuzz_split(bytes, n);
    char path[FUZZ_PATH_SIZE];
    char *override = NULL;
    fuzz_write("recipe", "x.yaml", in.first, in.n_first, path);
    if (in.second != NULL && memchr(in.second, 0, in.n_second) == NULL)
        override = text_copy_n((const char *)in.second, in.n_second);
    struct recipe recipe = { 0 }, again = { 0 };
    struct text dump = { 0 }, values = { 0 }, dump_again = { 0 }, values_again = { 0 };
    const bool ok = load(path, override, &recipe, err);
    if (ok) {
        values_of(&recipe, &dump, &values);
        fuzz_write("recipe", "dump.yaml", dump.data, dump.len, path);
        FUZZ_CHECK(load(path, NULL, &again, err));
        values_of(&again, &dump_again, &values_again);
        FUZZ_CHECK(strcmp(values.data, values_again.data) == 0);
    }
    text_free(&dump);
    text_free(&values);
    text_free(&dump_again);
    text_free(&values_again);
    recipe_free(&recipe);
    recipe_free(&again);
    free(override);
    return ok;
}
