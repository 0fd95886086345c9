/* The "added_tokens" of tokenizer.json: strings that are one token wherever they are recognised.
 *
 * Those with "normalized": false are looked for in the text as it comes, the others, normalised
 * themselves, in the normalised text. Of those that begin first the longest counts. A special token
 * that is not to be recognised still takes its place in the search: nothing inside its spelling is
 * found.
 */
#ifndef DATASETS_ADDED_TOKENS_H
#define DATASETS_ADDED_TOKENS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/byte_range.h"
#include "datasets/normalizer.h"
#include "datasets/pattern.h"
#include "datasets/token_map.h"
#include "kernels/core/err.h"

struct added_token {
    char *content;
    size_t content_n;
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
};

/* A trie of spellings; node 0 is the root. */
struct added_trie {
    struct added_node *nodes;
    size_t n, cap;
    bool first[256]; /* bytes that a spelling begins with */
};

struct added_tokens {
    struct added_token *tokens;
    size_t n;
    struct piece_map ids;              /* content -> id */
    struct added_trie raw, normalized; /* by what they are looked for in */
    struct pattern word;               /* one character of a word, when a token is single_word */
    bool begins[256], ends[256];       /* bytes that a special token's spelling begins, ends with */
    size_t longest;                    /* bytes of one */
};

/* Reads the list (NULL or null: none). Each id must be the one that the vocabulary `ids` of n_piece
 * pieces gives the content, or follow it without a gap, as the tokenizers library numbers them. */
bool added_init(struct added_tokens *added, json_t *list, const struct piece_map *ids,
                int64_t n_piece, const struct normalizer *norm, struct err *err);
void added_free(struct added_tokens *added);

/* What of bytes[0..n) may be a part of a special token whose rest stands beside it. */
struct added_edges {
    size_t head, tail; /* that many bytes at the start end a spelling, at the end begin one */
    bool inside;       /* all of it stands within a spelling */
};
struct added_edges added_special_edges(const struct added_tokens *added, const char *bytes,
                                       size_t n);

/* A walk over a text: each step yields the plain text up to the next token, then that token.
 *
 *     struct added_scan scan = { .added = added, .trie = &added->raw, .special = s, .bytes = b, .n
 * = n }; while (added_scan_next(&scan)) {
 *         ... plain text bytes[scan.plain, scan.begin) ...
 *         if (scan.token != NULL) ... bytes[scan.begin, scan.end) ...
 *     }
 */
struct added_scan {
    const struct added_tokens *added;
    const struct added_trie *trie;
    bool special;                        /* whether special tokens are recognised */
    const struct range_list *plain_text; /* where they are not all the same; NULL: nowhere */
    const char *bytes;
    const int32_t *at; /* where each byte stands in the text of plain_text; NULL: at its index */
    size_t n;

    size_t from, done; /* where the search goes on; the end of the last token */
    size_t plain, begin, end;
    const struct added_token *token; /* NULL: the plain text goes up to the end */
    bool failed, finished;           /* failed: out of memory while a word edge was looked at */
};

bool added_scan_next(struct added_scan *scan);

#endif
