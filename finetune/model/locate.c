/* Where a base model is: a folder, the local Hugging Face cache, or a config alone. Nothing is
 * fetched.
 *
 * The cache: HUB/models--ORG--NAME/refs/main holds a revision;
 * HUB/models--ORG--NAME/snapshots/REVISION is the checkpoint's folder.
 */
#include "finetune/model/weights.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"

static const char random_prefix[] = "random:";

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

/* "org/name" of the hub's characters; nothing that could climb out of the cache. */
static bool is_hub_name(const char *s)
{
    const char *slash = strchr(s, '/');
    if (slash == NULL || slash == s || slash[1] == '\0' || strchr(slash + 1, '/') != NULL)
        return false;
    if (s[0] == '.' || slash[1] == '.' || strstr(s, "..") != NULL || strlen(s) > 192)
        return false;
    for (const char *p = s; *p != '\0'; p++) {
        if (p != slash && !is_name_char(*p))
            return false;
    }
    return true;
}

/* The folder of the hub cache, by huggingface_hub's rules; caller frees. */
static char *hub_folder(struct err *err)
{
    const char *hub = getenv("HF_HUB_CACHE"), *hf = getenv("HF_HOME");
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *folder = NULL;
    if (hub != NULL && *hub != '\0')
        folder = text_copy(hub);
    else if (hf != NULL && *hf != '\0')
        folder = file_join(hf, "hub");
    else if (cache != NULL && *cache != '\0')
        folder = file_join(cache, "huggingface/hub");
    else
        folder = file_join(home != NULL ? home : "", ".cache/huggingface/hub");
    if (folder == NULL)
        err_no_memory(err, "the cache's folder");
    return folder;
}

/* The revision in refs/main, checked to be a plain name; NULL when there is none. Caller frees. */
static char *read_revision(const char *repo, struct err *err)
{
    char *path = file_join(repo, "refs/main"), *text = NULL;
    size_t n = 0;
    if (path == NULL)
        err_no_memory(err, repo);
    const bool ok = path != NULL && file_read(path, 256, &text, &n, err);
    free(path);
    if (!ok)
        return NULL;
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' '))
        text[--n] = '\0';
    bool plain = n > 0 && text[0] != '.';
    for (size_t i = 0; i < n; i++)
        plain = plain && is_name_char(text[i]);
    if (plain)
        return text;
    free(text);
    return NULL;
}

/* The folder of the cached snapshot; NULL when there is none (then err tells at most that memory is
 * out). Caller frees. */
static char *find_snapshot(const char *hub, const char *name, struct err *err)
{
    const char *slash = strchr(name, '/');
    char *repo = text_format("%s/models--%.*s--%s", hub, (int)(slash - name), name, slash + 1);
    char *revision = repo != NULL ? read_revision(repo, err) : NULL;
    char *folder = revision != NULL ? text_format("%s/snapshots/%s", repo, revision) : NULL;
    if (repo == NULL || (revision != NULL && folder == NULL))
        err_no_memory(err, name);
    free(repo);
    free(revision);
    if (folder != NULL && !file_is_directory(folder)) {
        free(folder);
        folder = NULL;
    }
    return folder;
}

static char *find_folder(const char *base_model, struct err *err)
{
    if (file_is_directory(base_model)) {
        char *folder = text_copy(base_model);
        if (folder == NULL)
            err_no_memory(err, base_model);
        return folder;
    }
    if (file_exists(base_model) || !is_hub_name(base_model)) {
        err_set(err, ERR_NO_INPUT,
                "'%.200s': %s; base_model is a checkpoint's folder, a hub name (org/name) or "
                "random:CONFIG.JSON",
                base_model,
                file_exists(base_model) ? "is not a folder" : "there is no such folder");
        return NULL;
    }
    char *hub = hub_folder(err);
    if (hub == NULL)
        return NULL;
    struct err why = { 0 };
    char *folder = find_snapshot(hub, base_model, &why);
    if (folder == NULL && why.code == ERR_NO_MEMORY)
        err_no_memory(err, base_model);
    else if (folder == NULL)
        err_set(err, ERR_NO_INPUT,
                "'%s': is neither a folder nor in the Hugging Face cache, '%s'; fetch it with 'hf "
                "download %s' "
                "('huggingface-cli download %s' before huggingface_hub 1.0)",
                base_model, hub, base_model, base_model);
    free(hub);
    return folder;
}

static bool locate_config(const char *file, char **config_path, struct err *err)
{
    if (*file == '\0')
        return err_set(err, ERR_NO_INPUT, "'%s': names no file; expected random:CONFIG.JSON",
                       random_prefix);
    *config_path = text_copy(file);
    return *config_path != NULL || err_no_memory(err, file);
}

bool weights_locate(const char *base_model, char **folder, char **config_path, struct err *err)
{
    *folder = *config_path = NULL;
    if (text_starts_with(base_model, random_prefix))
        return locate_config(base_model + sizeof random_prefix - 1, config_path, err);
    *folder = find_folder(base_model, err);
    if (*folder == NULL)
        return false;
    *config_path = file_join(*folder, "config.json");
    bool ok = *config_path != NULL || err_no_memory(err, base_model);
    if (ok && !file_exists(*config_path))
        ok = err_set(err, ERR_NO_INPUT,
                     "%s: has no 'config.json'; expected a checkpoint as transformers saves it",
                     *folder);
    if (ok)
        return true;
    free(*folder);
    free(*config_path);
    *folder = *config_path = NULL;
    return false;
}
