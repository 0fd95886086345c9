#include "finetune/report/settings.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"

enum { MAX_BYTES = 4 << 20 };

/* Cuts the line after its value and returns what the comment behind it says, or "". A '#' begins a
 * comment outside quotes and behind a space. */
static const char *cut_comment(char *value)
{
    bool quoted = false;
    for (char *at = value; *at != '\0'; at++) {
        if (quoted && at[0] == '\\' && at[1] != '\0') {
            at++;
        } else if (*at == '"') {
            quoted = !quoted;
        } else if (!quoted && at[0] == '#' && at > value && at[-1] == ' ') {
            char *comment = at + 1 + strspn(at + 1, " ");
            while (at > value && at[-1] == ' ')
                at--;
            *at = '\0';
            return comment;
        }
    }
    return "";
}

static bool add(struct settings *s, int64_t *cap, struct setting item, struct err *err)
{
    if (s->n == *cap) {
        const int64_t more = *cap == 0 ? 128 : *cap * 2;
        struct setting *items = realloc(s->items, (size_t)more * sizeof *items);
        if (items == NULL)
            return err_no_memory(err, "the recipe's keys");
        s->items = items;
        *cap = more;
    }
    s->items[s->n++] = item;
    return true;
}

bool settings_parse(struct settings *s, char *bytes, struct err *err)
{
    static const char key_characters[] = "abcdefghijklmnopqrstuvwxyz_0123456789";
    const char *section = "";
    int64_t cap = 0;
    *s = (struct settings){ .bytes = bytes };
    for (char *line = bytes, *next = NULL; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = '\0';
        const size_t n = strspn(line, key_characters);
        if (text_starts_with(line, "# ") && line != bytes) {
            section = line + 2;
        } else if (n > 0 && line[n] == ':') {
            line[n] = '\0';
            char *value = line + n + 1 + strspn(line + n + 1, " ");
            const char *origin = cut_comment(value);
            if (!add(s, &cap, (struct setting){ section, line, value, origin }, err)) {
                settings_free(s);
                return false;
            }
        }
    }
    return true;
}

bool settings_read(struct settings *s, const char *path, struct err *err)
{
    char *bytes = NULL;
    size_t size = 0;
    *s = (struct settings){ 0 };
    if (!file_exists(path))
        return true;
    return file_read(path, MAX_BYTES, &bytes, &size, err) && settings_parse(s, bytes, err);
}

void settings_free(struct settings *s)
{
    free(s->items);
    free(s->bytes);
    *s = (struct settings){ 0 };
}

const char *settings_value(const struct settings *s, const char *key)
{
    for (int64_t i = 0; i < s->n; i++) {
        if (strcmp(s->items[i].key, key) == 0)
            return s->items[i].value;
    }
    return NULL;
}

bool setting_is_default(const struct setting *setting)
{
    return strcmp(setting->origin, "default") == 0;
}
