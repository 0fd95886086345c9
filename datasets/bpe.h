/* The BPE model of tokenizer.json: a vocabulary and ranked merges.
 *
 * A word becomes one symbol per character (or per byte, with byte fallback), then the lowest-ranked
 * pair of neighbours is merged, the leftmost first, until no pair is in the list (Sennrich, Haddow,
 * Birch, "Neural machine translation of rare words with subword units", ACL 2016).
 *
 * Without a pre-tokenizer the whole document is one word. It is cut where no merge can ever reach
 * across: between characters x and y such that no merge has a left part ending in x and a right
 * part beginning with y. What is left is merged with a heap: O(n log n) in the longest stretch,
 * linear in the text.
 */
#ifndef DATASETS_BPE_H
#define DATASETS_BPE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/normalizer.h"
#include "datasets/token_map.h"
#include "datasets/tokenizer.h"
#include "kernels/core/err.h"

/* Ids lie below it: tables by id are made for the largest, and a small file can name any. */
enum { BPE_ID_LIMIT = 1 << 22 };

struct bpe {
    char *bytes;        /* all pieces, each terminated */
    const char **piece; /* (n_id): NULL in a gap */
    int64_t n_id;       /* largest id + 1 */
    int64_t n_piece;
    size_t longest; /* bytes of the longest piece */
    struct piece_map ids;
    struct pair_map merges; /* (left, right) -> rank, result */
    struct pair_map joins;  /* pairs of characters that some merge reaches across */
    bool joins_known; /* false: a merge has a byte token or <unk> as a part, so nothing is cut */
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk;           /* -1: none */
    int32_t ascii_id[128]; /* id of each ASCII character, or -1 */
    int32_t byte_id[256];  /* id of "<0x00>"..., with byte_fallback */
};

/* Reads the "model" object. On failure free it as after success. */
bool bpe_init(struct bpe *bpe, json_t *model, struct err *err);
void bpe_free(struct bpe *bpe);

/* Whether piece is spelled "<0xHH>", and the byte. */
bool bpe_byte_piece(const char *piece, unsigned char *byte);

/* Room for one encode, kept between words. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t n_symbol, symbol_cap, n_heap, heap_cap;
};

void bpe_scratch_free(struct bpe_scratch *s);

/* Appends the tokens of one word to out. */
bool bpe_encode(const struct bpe *bpe, struct aligned_view word, struct bpe_scratch *s,
                struct token_list *out, struct err *err);

#endif
