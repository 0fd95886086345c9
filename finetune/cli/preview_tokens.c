#include "finetune/cli/preview_tokens.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SPACE_SIGN "\xE2\x96\x81" /* U+2581, a space in pieces of the SentencePiece kind */

/* The bytes U+0080..U+009F begin with, and the marks that change the direction of what follows. */
static bool is_invisible(const char *s, size_t n)
{
    const unsigned char *c = (const unsigned char *)s;
    if (n == 1)
        return c[0] < 0x20 || c[0] == 0x7F;
    if (n == 2)
        return c[0] == 0xC2 && (c[1] <= 0xA0 || c[1] == 0xAD); /* and no-break space, soft hyphen */
    if (n != 3 || c[0] != 0xE2)
        return n == 3 && memcmp(c, "\xEF\xBB\xBF", 3) == 0; /* byte-order mark */
    return (c[1] == 0x80 && ((c[2] >= 0x8B && c[2] <= 0x8F) || (c[2] >= 0xA8 && c[2] <= 0xAE))) ||
           (c[1] == 0x81 && c[2] >= 0xA0 && c[2] <= 0xAF);
}

static void put_bytes(struct text *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        text_printf(out, "<0x%02X>", (unsigned)(unsigned char)s[i]);
}

static void put_character(struct text *out, const char *s, size_t n)
{
    if (n == 1 && *s == '\n')
        text_puts(out, "⏎");
    else if (n == 1 && *s == '\t')
        text_puts(out, "⇥");
    else if (n == strlen(SPACE_SIGN) && memcmp(s, SPACE_SIGN, n) == 0)
        text_puts(out, " ");
    else if (is_invisible(s, n))
        put_bytes(out, s, n);
    else
        text_append(out, s, n);
}

/* <0x0A>: a byte of its own. */
static bool is_byte_piece(const char *piece, char *byte)
{
    unsigned value = 0;
    int n = 0;
    if (strlen(piece) != 6 || sscanf(piece, "<0x%2X>%n", &value, &n) != 1 || n != 6)
        return false;
    *byte = (char)(unsigned char)value;
    return true;
}

static bool is_special(const struct tokenizer *tok, int32_t id, bool *out, struct err *err)
{
    struct text with = { 0 }, without = { 0 };
    const bool ok = tokenizer_decode(tok, &id, 1, false, &with, err) &&
                    tokenizer_decode(tok, &id, 1, true, &without, err);
    const bool whole = !with.failed && !without.failed;
    *out = with.len > 0 && without.len == 0;
    text_free(&with);
    text_free(&without);
    return ok && (whole || err_no_memory(err, "a token's text"));
}

bool preview_token(const struct tokenizer *tok, int32_t id, struct preview_token *out,
                   struct err *err)
{
    const char *piece = tok != NULL ? tokenizer_piece(tok, id) : NULL;
    char byte = 0;
    text_clear(&out->text);
    out->special = false;
    out->ends_line = false;
    if (piece == NULL) {
        text_printf(&out->text, "#%" PRId32, id);
    } else if (is_byte_piece(piece, &byte)) {
        out->ends_line = byte == '\n';
        if ((unsigned char)byte < 0x80)
            put_character(&out->text, &byte, 1);
        else
            put_bytes(&out->text, &byte, 1);
    } else {
        if (!is_special(tok, id, &out->special, err))
            return false;
        out->ends_line = strcmp(piece, "\n") == 0;
        for (size_t n; *piece != '\0'; piece += n) {
            n = text_utf8_length(piece);
            put_character(&out->text, piece, n);
        }
    }
    if (out->text.len == 0)
        text_printf(&out->text, "#%" PRId32, id);
    return !out->text.failed || err_no_memory(err, "a token's text");
}
