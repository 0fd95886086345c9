/* The house's floors: an include goes down a floor or stays in its folder; never up, never
 * sideways. Headers are guarded by their path. Below finetune/cli nothing prints or exits. (That
 * each header compiles alone is the build's doing: see `headers` in CMakeLists.txt.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A room is a folder without the folders in it, but for tests/. A new folder needs a line here. */
struct room {
    const char *path;
    int floor;
    int at_least; /* files: an empty listing proves nothing */
};
static const struct room rooms[] = {
    { "kernels/core", 0, 18 },   { "kernels/format", 1, 2 },  { "kernels/cpu", 1, 14 },
    { "kernels/plan", 1, 2 },    { "kernels/cuda", 1, 0 },    { "kernels/timing", 1, 2 },
    { "kernels", 1, 2 },         { "lora", 2, 20 },           { "datasets", 2, 25 },
    { "finetune/model", 3, 25 }, { "recipes", 3, 18 },        { "finetune/generate", 4, 4 },
    { "finetune/train", 5, 12 }, { "finetune/export", 5, 2 }, { "finetune/report", 6, 9 },
    { "finetune/bench", 6, 8 },  { "finetune/cli", 7, 15 },   { "tests", 8, 30 },
};
enum { N_ROOM = sizeof rooms / sizeof *rooms, PATH_SIZE = 512, COMMANDS_FLOOR = 7, TESTS_FLOOR };

static const char *const tops[] = { "kernels", "lora", "datasets", "recipes", "finetune", "tests" };
enum { N_TOP = sizeof tops / sizeof *tops };

static const struct room *room_of(const char *path)
{
    for (int i = 0; i < N_ROOM; i++) {
        const size_t n = strlen(rooms[i].path);
        if (strncmp(path, rooms[i].path, n) != 0 || path[n] != '/')
            continue;
        if (rooms[i].floor == TESTS_FLOOR || strchr(path + n + 1, '/') == NULL)
            return &rooms[i];
    }
    return NULL;
}

static bool ends_in(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static bool is_source(const char *path)
{
    return ends_in(path, ".c") || ends_in(path, ".h") || ends_in(path, ".cu");
}

/* ---- the walk over the tree ---- */

typedef void look_at(const char *path, char *text);

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("%s: cannot be read", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    const long n = ftell(f);
    assert_true(n >= 0);
    rewind(f);
    char *text = malloc((size_t)n + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)n, f), (size_t)n);
    text[n] = '\0';
    fclose(f);
    return text;
}

static void walk(const char *folder, look_at *look, int counts[N_ROOM])
{
    DIR *dir = opendir(folder);
    if (dir == NULL)
        fail_msg("%s: not there; the test runs in the root of the source tree", folder);
    for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        char path[PATH_SIZE];
        struct stat st;
        if (e->d_name[0] == '.')
            continue;
        const int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        assert_in_range(n, 1, PATH_SIZE - 1);
        assert_int_equal(stat(path, &st), 0);
        if (S_ISDIR(st.st_mode)) {
            walk(path, look, counts);
        } else if (is_source(path)) {
            const struct room *room = room_of(path);
            if (room == NULL)
                fail_msg("%s: stands in no room of the house", path);
            counts[room - rooms]++;
            char *text = read_text(path);
            look(path, text);
            free(text);
        }
    }
    closedir(dir);
}

/* Looks at every source file of the tree. */
static void walk_all(look_at *look)
{
    int counts[N_ROOM] = { 0 };
    for (int i = 0; i < N_TOP; i++)
        walk(tops[i], look, counts);
    for (int i = 0; i < N_ROOM; i++) {
        if (counts[i] < rooms[i].at_least)
            fail_msg("%s: %d files found; at least %d were expected", rooms[i].path, counts[i],
                     rooms[i].at_least);
    }
}

/* ---- includes ---- */

/* What goes down, and the three exceptions: the rooms of kernels/ know the contract; recipes/ knows
 * of the second floor its config structs alone. */
static bool may_include(const char *from, const char *to)
{
    const struct room *own = room_of(from), *other = room_of(to);
    if (own == other)
        return true;
    if (strcmp(own->path, "recipes") == 0 && other->floor == 2)
        return strcmp(to, "lora/config.h") == 0 || strcmp(to, "datasets/config.h") == 0;
    if (own->floor == 1 && strcmp(to, "kernels/ops.h") == 0)
        return true;
    return other->floor < own->floor;
}

static void check_include(const char *path, const char *target)
{
    struct stat st;
    if (room_of(target) == NULL || stat(target, &st) != 0)
        fail_msg("%s: includes \"%s\"; expected a file's path from the root", path, target);
    if (!may_include(path, target))
        fail_msg("%s: includes \"%s\", which is up or sideways", path, target);
}

static void check_includes(const char *path, char *text)
{
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char target[PATH_SIZE];
        if (sscanf(line, " # include \"%511[^\"]\"", target) == 1)
            check_include(path, target);
        else if (sscanf(line, " # include <%511[^>]>", target) == 1 && room_of(target) != NULL)
            fail_msg("%s: includes <%s>; ours go in quotes", path, target);
    }
}

static void an_include_goes_down_a_floor_or_stays_in_its_folder(void **state)
{
    (void)state;
    walk_all(check_includes);
}

static void the_rule_itself(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        bool allowed;
    } cases[] = {
        { "kernels/cpu/norm.c", "kernels/core/err.h", true },
        { "kernels/cpu/norm.c", "kernels/ops.h", true },
        { "kernels/cpu/norm.c", "kernels/plan/plan.h", false },
        { "kernels/core/err.c", "kernels/ops.h", false },
        { "lora/linear.c", "kernels/ops.h", true },
        { "lora/linear.c", "datasets/stream.h", false },
        { "lora/linear.c", "finetune/model/config.h", false },
        { "finetune/model/jamba.c", "lora/embed.h", true },
        { "finetune/model/jamba.c", "recipes/recipe.h", false },
        { "recipes/recipe.h", "lora/config.h", true },
        { "recipes/recipe.h", "lora/adapter.h", false },
        { "recipes/recipe.h", "kernels/core/err.h", true },
        { "finetune/train/loop.c", "recipes/recipe.h", true },
        { "finetune/train/samples.c", "finetune/generate/text.h", true },
        { "finetune/generate/text.c", "finetune/train/data.h", false },
        { "finetune/export/peft.c", "finetune/train/data.h", false },
        { "finetune/train/loop.c", "finetune/cli/cli.h", false },
        { "finetune/cli/main.c", "finetune/train/loop.h", true },
        { "tests/ops/test_rows.c", "tests/support/support.h", true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (may_include(cases[i].from, cases[i].to) != cases[i].allowed)
            fail_msg("%s -> %s", cases[i].from, cases[i].to);
    }
}

/* ---- guards ---- */

static void check_guard(const char *path, char *text)
{
    if (!ends_in(path, ".h"))
        return;
    char guard[PATH_SIZE], first[PATH_SIZE], second[PATH_SIZE], last[PATH_SIZE];
    size_t n = 0;
    for (; path[n] != '\0'; n++)
        guard[n] = (char)(isalnum((unsigned char)path[n]) ? toupper((unsigned char)path[n]) : '_');
    guard[n] = '\0';
    snprintf(first, sizeof first, "#ifndef %.480s", guard);
    snprintf(second, sizeof second, "#define %.480s", guard);
    int at = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (line[0] != '#')
            continue;
        if (at < 2 && strcmp(line, at == 0 ? first : second) != 0)
            fail_msg("%s: '%.80s'; expected '%s'", path, line, at == 0 ? first : second);
        at++;
        snprintf(last, sizeof last, "%.500s", line);
    }
    if (at < 3 || strcmp(last, "#endif") != 0)
        fail_msg("%s: does not end with its guard's #endif", path);
}

static void a_header_is_guarded_by_its_path(void **state)
{
    (void)state;
    walk_all(check_guard);
}

/* ---- who speaks ---- */

/* `word` as a whole word and, for a function, called. */
static bool uses(const char *text, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = strstr(text, word); at != NULL; at = strstr(at + 1, word)) {
        const char before = at == text ? ' ' : at[-1];
        const bool whole = word[n - 1] == '(' || !(isalnum((unsigned char)at[n]) || at[n] == '_');
        if (!isalnum((unsigned char)before) && before != '_' && whole)
            return true;
    }
    return false;
}

static void check_silence(const char *path, char *text)
{
    static const char *const words[] = { "printf(", "puts(", "putchar(", "perror(", "stdout",
                                         "stderr",  "exit(", "_Exit(",   "abort(" };
    if (room_of(path)->floor >= COMMANDS_FLOOR)
        return;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (uses(text, words[i]))
            fail_msg("%s: uses %s); only finetune/cli prints or exits", path, words[i]);
    }
}

static void below_the_commands_nothing_prints_or_exits(void **state)
{
    (void)state;
    assert_true(uses("  printf(\"\")", "printf(") && !uses("snprintf(a", "printf("));
    assert_true(uses("stderr)", "stderr") && !uses("my_stderr", "stderr"));
    walk_all(check_silence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rule_itself),
        cmocka_unit_test(an_include_goes_down_a_floor_or_stays_in_its_folder),
        cmocka_unit_test(a_header_is_guarded_by_its_path),
        cmocka_unit_test(below_the_commands_nothing_prints_or_exits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
