/* A recipe: what loads is dumped, and the dump loads to the same values. What follows a zero byte
 * is an override of the command line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* A dump without its comments: the values alone. */
static void values_of(const struct recipe *recipe, struct text *dump, struct text *out)
{
    recipe_dump(recipe, dump);
    FUZZ_CHECK(!dump->failed);
    for (const char *line = dump->data; *line != '\0';) {
        const char *end = strchr(line, '\n'), *stop = end;
        FUZZ_CHECK(end != NULL);
        for (const char *p = line; p + 4 <= end; p++) {
            if (memcmp(p, "  # ", 4) == 0)
                stop = p; /* the last one: a value may have one in quotes */
        }
        text_append(out, line, (size_t)(stop - line));
        text_puts(out, "\n");
        line = end + 1;
    }
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
