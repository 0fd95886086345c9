/* A checkpoint's chat templates as keys of a GGUF file. */
#ifndef FINETUNE_EXPORT_GGUF_TEMPLATE_H
#define FINETUNE_EXPORT_GGUF_TEMPLATE_H

#include <stdbool.h>

#include "kernels/core/err.h"
#include "kernels/format/gguf.h"

/* chat_template.jinja, else "chat_template" of tokenizer_config.json: a string, or a list of named
 * ones, of which "default" is the one without a name. Nothing when there is none. */
bool gguf_put_templates(struct gguf_writer *w, const char *folder, struct err *err);

#endif
