#include "finetune/cli/preview_html.h"

#include <inttypes.h>

static void put_escaped(struct text *page, const char *s)
{
    for (; *s != '\0'; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '&')
            text_puts(page, "&amp;");
        else if (c == '<')
            text_puts(page, "&lt;");
        else if (c == '>')
            text_puts(page, "&gt;");
        else if (c == '"')
            text_puts(page, "&quot;");
        else if (c < 0x20 || c == 0x7F)
            text_puts(page, "?"); /* of a file's name: no page may hold it */
        else
            text_append(page, s, 1);
    }
}

void preview_html_begin(struct text *page, const char *title)
{
    text_puts(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n"
                    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n"
                    "<title>");
    put_escaped(page, title);
    text_puts(
        page,
        "</title>\n<style>\n"
        ":root { color-scheme: light dark; --ink: #1d2126; --paper: #fdfdfc; --faint: #63686f;\n"
        "  --line: #d9dbde; --trained: #0b5f2a; --field: #d5f0dc; --bar: #2f9e57; }\n"
        "@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e9; --paper: #16181b;\n"
        "  --faint: #9aa1a9; --line: #34383d; --trained: #b4f0c6; --field: #173d24;\n"
        "  --bar: #3fae69; } }\n"
        "body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink);\n"
        "  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }\n"
        "h1 { font-size: 1.3rem; overflow-wrap: anywhere; }\n"
        "h2 { font-size: .95rem; margin: 1.8rem 0 .4rem; overflow-wrap: anywhere; }\n"
        "p { color: var(--faint); }\n"
        "table { border-collapse: collapse; font-variant-numeric: tabular-nums; }\n"
        "td, th { padding: .15rem .8rem .15rem 0; text-align: left; font-weight: normal; }\n"
        "td.number { text-align: right; }\n"
        "td.bars { width: 40vw; max-width: 24rem; }\n"
        ".bar { height: .8rem; background: var(--bar); min-width: 1px; }\n"
        "pre { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: .4rem;\n"
        "  white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.7 ui-monospace, "
        "monospace; }\n"
        "i { font-style: normal; color: var(--faint); box-shadow: inset 1px 0 var(--line); }\n"
        "b { font-weight: normal; color: var(--trained); background: var(--field);\n"
        "  box-shadow: inset 1px 0 var(--bar); }\n"
        ".special { text-decoration: underline dotted; }\n"
        "</style>\n</head>\n<body>\n<h1>");
    put_escaped(page, title);
    text_puts(page, "</h1>\n<p>What the model is trained on, token by token: "
                    "<b>these carry loss</b>, <i>these do not</i>.</p>\n");
}

static void put_row(struct text *page, const char *name, int64_t n)
{
    char digits[32];
    text_count(digits, n);
    text_printf(page, "<tr><th>%s</th><td class=\"number\">%s</td></tr>\n", name, digits);
}

static void put_lengths(struct text *page, const struct preview_totals *t)
{
    int first = 0, last = -1;
    int64_t most = 1;
    if (!preview_bounds(t, &first, &last))
        return;
    for (int k = first; k <= last; k++)
        most = t->length[k] > most ? t->length[k] : most;
    text_puts(page, "<h2>Lengths of documents, in tokens</h2>\n<table>\n");
    for (int k = first; k <= last; k++) {
        const int64_t from = (int64_t)1 << k;
        text_printf(page,
                    "<tr><th>%" PRId64 " to %" PRId64 "</th><td class=\"number\">%" PRId64
                    "</td><td class=\"bars\"><div class=\"bar\" style=\"width: %.1f%%\"></div>"
                    "</td></tr>\n",
                    from, 2 * from - 1, t->length[k], 100.0 * (double)t->length[k] / (double)most);
    }
    text_puts(page, "</table>\n");
}

void preview_html_totals(struct text *page, const struct preview_totals *t)
{
    struct text losses = { 0 };
    text_puts(page, "<table>\n");
    put_row(page, "documents to train on", t->n_doc);
    put_row(page, "documents to validate on", t->n_validation);
    put_row(page, "tokens to train on", t->n_tok);
    put_row(page, "of them carry loss", t->n_trained);
    put_row(page, "the longest document", t->longest);
    text_puts(page, "</table>\n");
    preview_losses(t, &losses);
    if (losses.len > 0) {
        text_puts(page, "<pre>");
        text_append(page, losses.data, losses.len); /* digits and words of ours */
        text_puts(page, "</pre>\n");
    }
    page->failed |= losses.failed;
    text_free(&losses);
    put_lengths(page, t);
}

void preview_html_document(struct text *page, const char *heading)
{
    text_puts(page, "<h2>");
    put_escaped(page, heading);
    text_puts(page, "</h2>\n<pre>");
}

void preview_html_token(struct text *page, const struct preview_token *token, int32_t id,
                        bool trained)
{
    const char *tag = trained ? "b" : "i";
    text_printf(page, "<%s title=\"%" PRId32 "\"%s>", tag, id,
                token->special ? " class=\"special\"" : "");
    put_escaped(page, token->text.data);
    text_printf(page, "</%s>%s", tag, token->ends_line ? "\n" : "");
}

void preview_html_document_end(struct text *page)
{
    text_puts(page, "</pre>\n");
}

void preview_html_end(struct text *page)
{
    text_puts(page, "</body>\n</html>\n");
}
