/* Where export, import and preview may write: only what is of the same kind is overwritten. */
#ifndef FINETUNE_CLI_OUTPUT_H
#define FINETUNE_CLI_OUTPUT_H

#include <stdbool.h>

#include "kernels/core/err.h"

/* A folder that is not there, is empty or, with `adapter`, holds an adapter. source: the folder
 * read, which must be another. Errors are ERR_CANT_CREATE, of an empty name ERR_USAGE. */
bool output_check_folder(const char *out, const char *source, bool adapter, struct err *err);

/* A file that is not there, or a GGUF file. */
bool output_check_gguf(const char *out, struct err *err);

/* A file that is not there, or an HTML page. */
bool output_check_page(const char *out, struct err *err);

/* Ends export and import: what was written and what is to be known of it (`notes`, one sentence a
 * line), on stderr, or as one JSON object on stdout. Returns the exit code. */
int output_end(const char *out, const char *form, char *notes, bool json);

#endif
