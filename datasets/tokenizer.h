/* Text to token ids and back, by a checkpoint's own tokenizer.json.
 *
 *     struct tokenizer *tok = tokenizer_open("models/jamba", err);
 *     struct token_list tokens = { 0 };
 *     if (!tokenizer_encode(tok, text, n, true, &tokens, err)) ...
 *     struct text out = { 0 };
 *     if (!tokenizer_decode(tok, tokens.ids, tokens.n, true, &out, err)) ...
 *
 * The file is interpreted, not guessed: each node is run as the `tokenizers` library runs it, and a
 * node or a setting that is not implemented is refused by file and key path. Implemented: the BPE
 * model, normalizers Prepend, Replace and Sequence, pre-tokenizers Metaspace, Split, Digits and
 * Sequence, post-processors TemplateProcessing and Sequence, decoders Replace, ByteFallback, Fuse,
 * Strip, Metaspace and Sequence. "truncation" and "padding" are not applied: lengths are the data
 * set's business.
 *
 * A tokenizer never changes after it is opened: threads may share one.
 */
#ifndef DATASETS_TOKENIZER_H
#define DATASETS_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/byte_range.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

struct tokenizer;

/* Reads tokenizer.json and, when it is there, the bos_token and eos_token of tokenizer_config.json
 * from a checkpoint's folder. NULL on failure. */
struct tokenizer *tokenizer_open(const char *model_dir, struct err *err);
void tokenizer_free(struct tokenizer *tok);

/* Largest id + 1, added tokens included; ids may have gaps. */
int64_t tokenizer_vocab_size(const struct tokenizer *tok);

/* The id of a piece or added token spelled like this, or -1; and back: NULL when no piece has that
 * id. */
int32_t tokenizer_find(const struct tokenizer *tok, const char *piece);
const char *tokenizer_piece(const struct tokenizer *tok, int32_t id);

/* The ids of tokenizer_config.json's tokens, or -1 when it names none. */
int32_t tokenizer_eos(const struct tokenizer *tok);
int32_t tokenizer_bos(const struct tokenizer *tok);

/* Token ids, and for each the byte offset in the text of the character where the token begins. */
struct token_list {
    int32_t *ids;
    int32_t *begin;
    int64_t n, cap;
};

bool token_list_add(struct token_list *list, int32_t id, int32_t begin);
void token_list_free(struct token_list *list);

/* Appends the tokens of text[0..n), which must be UTF-8 and shorter than 2 GiB. On failure `out` is
 * as it was.
 *
 * add_special: also the tokens of the post-processor (BOS, ...), with begin 0 in front of the text
 * and n behind it (the tokenizers library reports 0 for both).
 *
 * tokenizer_encode is for text that comes from users: the spelling of a special token in it stays
 * text. tokenizer_encode_special recognises it, for text that templates write. Added tokens that
 * are not special are recognised by both.
 *
 * begin is where the tokenizers library puts a token's offset: a byte-fallback token begins at its
 * character, a prefix space at the first character, a replacement at the last character it
 * replaces, an added token at the white space that its "lstrip" takes in. */
bool tokenizer_encode(const struct tokenizer *tok, const char *text, size_t n, bool add_special,
                      struct token_list *out, struct err *err);
bool tokenizer_encode_special(const struct tokenizer *tok, const char *text, size_t n,
                              bool add_special, struct token_list *out, struct err *err);

/* tokenizer_encode_special, without the post-processor's tokens, for text that a template wrote
 * around text of users: a special token whose spelling has a byte in common with a range of
 * `plain_text` (merged) stays text. */
bool tokenizer_encode_template(const struct tokenizer *tok, const char *text, size_t n,
                               const struct range_list *plain_text, struct token_list *out,
                               struct err *err);

/* Appends to `out`, in order, where text[0..n) spells special tokens: what
 * tokenizer_encode_special would not leave as text. */
bool tokenizer_find_special(const struct tokenizer *tok, const char *text, size_t n,
                            struct range_list *out, struct err *err);

/* The bytes at the start of text[0..n) that could end the spelling of a special token, those at its
 * end that could begin one, and whether all of it stands within one: where other text follows, the
 * two together may spell what neither does. */
void tokenizer_special_edges(const struct tokenizer *tok, const char *text, size_t n, size_t *head,
                             size_t *tail, bool *inside);

/* Appends the text of ids[0..n). skip_special leaves special tokens out; ids without a piece (the
 * padding of a vocabulary) are left out too; a negative id is an error. */
bool tokenizer_decode(const struct tokenizer *tok, const int32_t *ids, int64_t n, bool skip_special,
                      struct text *out, struct err *err);

/* The same a token at a time, for generation:
 *
 *     struct token_stream s = { 0 };
 *     ok = tokenizer_stream_init(&s, tok, true, err);
 *     while (...) ok = tokenizer_stream_push(&s, id, &out, err);   // appends what is certain by
 * now ok = tokenizer_stream_finish(&s, &out, err);                 // appends the rest
 *     tokenizer_stream_free(&s);
 *
 * What push appends is always whole characters; a run of byte tokens is held back until it ends,
 * because one bad byte turns all of it into U+FFFD. Everything appended, together, is
 * tokenizer_decode's text. */
struct token_stream {
    const struct tokenizer *tok;
    bool skip_special;
    struct decoder_state *states; /* one per decoder node */
};

bool tokenizer_stream_init(struct token_stream *s, const struct tokenizer *tok, bool skip_special,
                           struct err *err);
bool tokenizer_stream_push(struct token_stream *s, int32_t id, struct text *out, struct err *err);
bool tokenizer_stream_finish(struct token_stream *s, struct text *out, struct err *err);
void tokenizer_stream_free(struct token_stream *s);

#endif
