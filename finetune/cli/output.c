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

/* A variable of a shell that is not set, most likely. */
static bool check_name(const char *out, struct err *err)
{
    return *out != '\0' ||
           err_set(err, ERR_USAGE, "command line: the name of what to write is empty");
}

bool output_check_folder(const char *out, const char *source, bool adapter, struct err *err)
{
    if (!check_name(out, err))
        return false;
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

/* Begins with `magic`, which is shorter than 32 bytes. A FIFO or a device does not. */
static bool begins_with(const char *path, const char *magic)
{
    char start[32];
    const size_t n = strlen(magic);
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    const bool begins = fd >= 0 && read(fd, start, n) == (ssize_t)n && memcmp(start, magic, n) == 0;
    if (fd >= 0)
        close(fd);
    return begins;
}

static bool check_file(const char *out, const char *magic, const char *what, const char *example,
                       struct err *err)
{
    if (!check_name(out, err))
        return false;
    if (!file_exists(out))
        return true;
    if (file_is_directory(out))
        return err_set(err, ERR_CANT_CREATE, "%s: is a folder; expected a file, such as %s/%s", out,
                       out, example);
    return begins_with(out, magic) ||
           err_set(err, ERR_CANT_CREATE,
                   "%s: is there and no %s, and is left alone; give another name", out, what);
}

bool output_check_gguf(const char *out, struct err *err)
{
    return check_file(out, "GGUF", "GGUF file", "adapter.gguf", err);
}

bool output_check_page(const char *out, struct err *err)
{
    return check_file(out, "<!DOCTYPE html>", "HTML page", "preview.html", err);
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
