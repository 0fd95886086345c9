#include "finetune/cli/output.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "finetune/cli/cli.h"
#include "kernels/core/file.h"
#include "lora/format_peft.h"

static bool is_empty(const char *folder)
{
    DIR *dir = opendir(folder);
    bool empty = dir != NULL;
    for (const struct dirent *e = dir != NULL ? readdir(dir) : NULL; e != NULL && empty;
         e = readdir(dir))
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    if (dir != NULL)
        closedir(dir);
    return empty;
}

static bool has_adapter(const char *folder)
{
    char *path = file_join(folder, PEFT_CONFIG_NAME);
    const bool has = path != NULL && file_exists(path);
    free(path);
    return has;
}

static bool is_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool output_check_folder(const char *out, const char *source, bool adapter, struct err *err)
{
    if (!file_exists(out))
        return true;
    if (!file_is_directory(out))
        return err_set(err, ERR_CANT_CREATE, "%s: is a file; expected a folder, or nothing there",
                       out);
    if (is_same(out, source))
        return err_set(err, ERR_CANT_CREATE, "%s: is what is read; write to another folder", out);
    if (is_empty(out) || (adapter && has_adapter(out)))
        return true;
    return err_set(err, ERR_CANT_CREATE,
                   adapter ? "%s: holds files but no adapter, and is left alone; give a new or "
                             "empty folder"
                           : "%s: is not empty, and is left alone; give a new or empty folder",
                   out);
}

bool output_check_gguf(const char *out, struct err *err)
{
    char magic[4] = "";
    if (!file_exists(out))
        return true;
    if (file_is_directory(out))
        return err_set(err, ERR_CANT_CREATE, "%s: is a folder; expected a file, such as %s/%s", out,
                       out, "adapter.gguf");
    const int fd = open(out, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    const bool is_gguf = fd >= 0 && read(fd, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (fd >= 0)
        close(fd);
    return is_gguf ||
           err_set(err, ERR_CANT_CREATE,
                   "%s: is there and no GGUF file, and is left alone; give another name", out);
}

/* The next line of *text, which is cut there; NULL at its end. */
static char *next_line(char **text)
{
    char *line = *text;
    if (line == NULL || *line == '\0')
        return NULL;
    char *end = strchr(line, '\n');
    *text = end != NULL ? end + 1 : line + strlen(line);
    if (end != NULL)
        *end = '\0';
    return line;
}

int output_end(const char *out, const char *form, char *notes, bool json)
{
    if (!json) {
        fprintf(stderr, "%s written to %s, and read back the same\n", form, out);
        for (char *line = next_line(&notes); line != NULL; line = next_line(&notes))
            cli_note("%s", line);
        return 0;
    }
    json_t *list = json_array();
    for (char *line = next_line(&notes); line != NULL; line = next_line(&notes))
        json_array_append_new(list, cli_json_string(line));
    return cli_end_json(
        json_pack("{s:o, s:s, s:o}", "out", cli_json_string(out), "form", form, "notes", list));
}
