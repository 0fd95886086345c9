/* The preview as one page: no script, nothing from elsewhere, light and dark. */
#ifndef FINETUNE_CLI_PREVIEW_HTML_H
#define FINETUNE_CLI_PREVIEW_HTML_H

#include "finetune/cli/preview_tokens.h"
#include "finetune/cli/preview_totals.h"
#include "kernels/core/text.h"

/* In this order; `title` and `heading` may be any text. */
void preview_html_begin(struct text *page, const char *title);
void preview_html_totals(struct text *page, const struct preview_totals *t);
void preview_html_document(struct text *page, const char *heading);
void preview_html_token(struct text *page, const struct preview_token *token, int32_t id,
                        bool trained);
void preview_html_document_end(struct text *page);
void preview_html_end(struct text *page);

#endif
