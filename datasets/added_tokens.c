#include "datasets/added_tokens.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/bpe.h"
#include "datasets/token_node.h"
#include "kernels/core/json.h"
#include "kernels/core/text.h"

struct added_node {
    uint32_t child, sibling; /* 0: none */
    int32_t token;           /* index of the token spelled by the path, or -1 */
    unsigned char byte;
};

void added_free(struct added_tokens *added)
{
    for (size_t i = 0; i < added->n; i++)
        free(added->tokens[i].content);
    free(added->tokens);
    free(added->raw.nodes);
    free(added->normalized.nodes);
    piece_map_free(&added->ids);
    pattern_free(&added->word);
    *added = (struct added_tokens){ 0 };
}

static uint32_t trie_child(const struct added_trie *trie, uint32_t node, unsigned char byte)
{
    uint32_t child = trie->nodes[node].child;
    while (child != 0 && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

static bool trie_grow(struct added_trie *trie, unsigned char byte, uint32_t parent)
{
    if (trie->n == trie->cap) {
        const size_t cap = trie->cap * 2 + 64;
        struct added_node *nodes = realloc(trie->nodes, cap * sizeof *nodes);
        if (nodes == NULL)
            return false;
        trie->nodes = nodes;
        trie->cap = cap;
    }
    const uint32_t sibling = trie->n == 0 ? 0 : trie->nodes[parent].child;
    if (trie->n > 0)
        trie->nodes[parent].child = (uint32_t)trie->n;
    trie->nodes[trie->n++] = (struct added_node){ .sibling = sibling, .token = -1, .byte = byte };
    return true;
}

/* A spelling that is there already keeps its token: of two that normalise alike the first counts.
 */
static bool trie_add(struct added_trie *trie, const char *bytes, size_t n, int32_t token)
{
    if (trie->n == 0 && !trie_grow(trie, 0, 0))
        return false;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char byte = (unsigned char)bytes[i];
        uint32_t next = trie_child(trie, node, byte);
        if (next == 0) {
            if (!trie_grow(trie, byte, node))
                return false;
            next = (uint32_t)(trie->n - 1);
        }
        node = next;
    }
    if (trie->nodes[node].token < 0)
        trie->nodes[node].token = token;
    trie->first[(unsigned char)bytes[0]] = true;
    return true;
}

/* Adds a token to the trie it is looked for in. */
static bool add_spelling(struct added_tokens *added, size_t i, const struct normalizer *norm,
                         struct err *err)
{
    const struct added_token *token = &added->tokens[i];
    if (!token->normalized)
        return trie_add(&added->raw, token->content, token->content_n, (int32_t)i) ||
               err_no_memory(err, "added_tokens");
    struct aligned_text text = { 0 }, spare = { 0 };
    bool ok = aligned_set(&text, token->content, 0, token->content_n) &&
              normalizer_apply(norm, &text, &spare);
    if (!ok)
        err_no_memory(err, "added_tokens");
    else if (text.n == 0)
        ok = err_set(err, ERR_DATA, "added_tokens[%zu]: \"%s\" is normalised to nothing", i,
                     token->content);
    else if (!trie_add(&added->normalized, text.bytes, text.n, (int32_t)i))
        ok = err_no_memory(err, "added_tokens");
    aligned_free(&text);
    aligned_free(&spare);
    return ok;
}

static bool read_token(struct added_token *token, json_t *json, const char *place, struct err *err)
{
    static const char *const keys[] = { "id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL };
    if (!json_is_object(json))
        return err_set(err, ERR_DATA, "%s: is %s; expected an object", place, json_type_name(json));
    const char *content = NULL;
    int64_t id = 0;
    if (!token_node_check_keys(json, keys, place, err) ||
        !token_node_get_string(json, "content", &content, &token->content_n, place, err) ||
        !json_get_int(json, "id", true, 0, BPE_ID_LIMIT - 1, &id, place, err) ||
        !json_get_bool(json, "single_word", true, &token->single_word, place, err) ||
        !json_get_bool(json, "lstrip", true, &token->lstrip, place, err) ||
        !json_get_bool(json, "rstrip", true, &token->rstrip, place, err) ||
        !json_get_bool(json, "normalized", true, &token->normalized, place, err) ||
        !json_get_bool(json, "special", true, &token->special, place, err))
        return false;
    if (token->content_n == 0)
        return err_set(err, ERR_DATA, "%s: \"content\" is empty", place);
    token->id = (int32_t)id;
    token->content = text_copy(content);
    return token->content != NULL || err_no_memory(err, place);
}

/* The id that the tokenizers library gives the next token: its id in the vocabulary, else the
 * number of pieces, else one more than the added tokens so far. A file that says otherwise means
 * two things. */
static bool check_id(const struct added_token *token, const struct piece_map *ids, int64_t n_piece,
                     int64_t *largest, const char *place, struct err *err)
{
    int64_t expected = piece_map_find(ids, token->content, token->content_n);
    if (expected < 0)
        expected = *largest >= n_piece ? *largest + 1 : n_piece;
    if (token->id != expected)
        return err_set(err, ERR_DATA,
                       "%s: \"%s\" has id %" PRId32
                       "; tokens that the vocabulary lacks are numbered on "
                       "from its size, others have its id, which makes it %" PRId64,
                       place, token->content, token->id, expected);
    *largest = expected > *largest ? expected : *largest;
    return true;
}

static void note_ends(struct added_tokens *added, const struct added_token *token)
{
    added->begins[(unsigned char)token->content[0]] = true;
    added->ends[(unsigned char)token->content[token->content_n - 1]] = true;
    added->longest = token->content_n > added->longest ? token->content_n : added->longest;
}

static bool read_tokens(struct added_tokens *added, json_t *list, const struct piece_map *ids,
                        int64_t n_piece, struct err *err)
{
    int64_t largest = -1;
    for (size_t i = 0; i < json_array_size(list); i++) {
        char place[NODE_PLACE_SIZE];
        snprintf(place, sizeof place, "added_tokens[%zu]", i);
        struct added_token *token = &added->tokens[added->n++];
        if (!read_token(token, json_array_get(list, i), place, err) ||
            !check_id(token, ids, n_piece, &largest, place, err))
            return false;
        if (piece_map_find(&added->ids, token->content, token->content_n) >= 0)
            return err_set(err, ERR_DATA, "%s: \"%s\" is there twice", place, token->content);
        piece_map_add(&added->ids, token->content, token->content_n, token->id);
        if (token->special)
            note_ends(added, token);
    }
    return true;
}

bool added_init(struct added_tokens *added, json_t *list, const struct piece_map *ids,
                int64_t n_piece, const struct normalizer *norm, struct err *err)
{
    *added = (struct added_tokens){ 0 };
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return err_set(err, ERR_DATA, "\"added_tokens\" is %s; expected a list",
                       json_type_name(list));
    const size_t n = json_array_size(list);
    added->tokens = calloc(n + 1, sizeof *added->tokens);
    if (added->tokens == NULL || !piece_map_init(&added->ids, n))
        return err_no_memory(err, "added_tokens");
    if (!read_tokens(added, list, ids, n_piece, err))
        return false;

    bool single_word = false;
    for (int special = 1; special >= 0; special--) { /* special ones first: see trie_add */
        for (size_t i = 0; i < n; i++) {
            single_word = single_word || added->tokens[i].single_word;
            if (added->tokens[i].special == (bool)special && !add_spelling(added, i, norm, err))
                return false;
        }
    }
    /* \w of the Rust regex crate (Unicode TR 18, annex C). */
    return !single_word ||
           pattern_init_class(&added->word,
                              "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]",
                              "added_tokens", err);
}

/* The longest spelling that begins at `at`, or NULL. */
static const struct added_token *match_at(const struct added_scan *scan, size_t at, size_t *end)
{
    const struct added_token *best = NULL;
    uint32_t node = 0;
    for (size_t i = at; i < scan->n; i++) {
        node = trie_child(scan->trie, node, (unsigned char)scan->bytes[i]);
        if (node == 0)
            break;
        if (scan->trie->nodes[node].token >= 0) {
            best = &scan->added->tokens[scan->trie->nodes[node].token];
            *end = i + 1;
        }
    }
    return best;
}

/* The length of the white space character at s (Unicode's White_Space), or 0. */
static size_t white_space(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    if (n >= 1 && ((u[0] >= '\t' && u[0] <= '\r') || u[0] == ' '))
        return 1;
    if (n >= 2 && u[0] == 0xC2 && (u[1] == 0x85 || u[1] == 0xA0))
        return 2;
    if (n < 3)
        return 0;
    static const char others[][4] = { "\u1680", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (memcmp(s, others[i], 3) == 0)
            return 3;
    }
    return u[0] == 0xE2 && u[1] == 0x80 && u[2] >= 0x80 && u[2] <= 0x8A ? 3
                                                                        : 0; /* U+2000..U+200A */
}

static size_t previous_character(const char *bytes, size_t at)
{
    do {
        at--;
    } while (((unsigned char)bytes[at] & 0xC0) == 0x80);
    return at;
}

static bool is_word_character(struct added_scan *scan, size_t at)
{
    struct pattern_match m = { 0 };
    const size_t n = text_utf8_length(scan->bytes + at);
    if (!pattern_find(&scan->added->word, scan->bytes + at, n, 0, NULL, &m, NULL)) {
        scan->failed = true;
        return false;
    }
    return m.found;
}

static bool stands_alone(struct added_scan *scan, size_t begin, size_t end)
{
    return (begin == 0 || !is_word_character(scan, previous_character(scan->bytes, begin))) &&
           (end == scan->n || !is_word_character(scan, end));
}

/* Makes the token found at [begin, end) the scan's, with the white space that it takes in. */
static void take_token(struct added_scan *scan, const struct added_token *token, size_t begin,
                       size_t end)
{
    while (token->lstrip && begin > scan->done) {
        const size_t before = previous_character(scan->bytes, begin);
        if (white_space(scan->bytes + before, begin - before) == 0)
            break;
        begin = before;
    }
    for (size_t n = 1; token->rstrip && n > 0; end += n)
        n = white_space(scan->bytes + end, scan->n - end);
    scan->token = token;
    scan->plain = scan->done;
    scan->begin = begin;
    scan->end = end;
    scan->done = end;
}

/* Whether a special token spelled by bytes [begin, end) counts as one. */
static bool is_special_here(const struct added_scan *scan, size_t begin, size_t end)
{
    if (!scan->special || scan->plain_text == NULL)
        return scan->special;
    if (scan->at == NULL)
        return !range_list_overlaps(scan->plain_text, begin, end);
    return !range_list_overlaps(scan->plain_text, (size_t)scan->at[begin],
                                (size_t)scan->at[end - 1] + 1);
}

bool added_scan_next(struct added_scan *scan)
{
    for (size_t i = scan->from; scan->trie->n > 0 && i < scan->n && !scan->failed; i++) {
        size_t end = 0;
        const struct added_token *token =
            scan->trie->first[(unsigned char)scan->bytes[i]] ? match_at(scan, i, &end) : NULL;
        if (token == NULL)
            continue;
        scan->from = end;
        if ((!token->special || is_special_here(scan, i, end)) &&
            (!token->single_word || stands_alone(scan, i, end))) {
            take_token(scan, token, i, end);
            return !scan->failed;
        }
        i = end - 1;
    }
    if (scan->failed || scan->finished)
        return false;
    scan->finished = true;
    scan->from = scan->n;
    scan->token = NULL;
    scan->plain = scan->done;
    scan->begin = scan->end = scan->n;
    return scan->plain < scan->n;
}

/* ---- parts of spellings ---- */

/* A special token longer than n bytes begins, or ends, with them. */
static bool begins_one(const struct added_tokens *added, const char *bytes, size_t n)
{
    for (size_t i = 0; i < added->n; i++) {
        const struct added_token *token = &added->tokens[i];
        if (token->special && token->content_n > n && memcmp(token->content, bytes, n) == 0)
            return true;
    }
    return false;
}

static bool ends_one(const struct added_tokens *added, const char *bytes, size_t n)
{
    for (size_t i = 0; i < added->n; i++) {
        const struct added_token *token = &added->tokens[i];
        if (token->special && token->content_n > n &&
            memcmp(token->content + token->content_n - n, bytes, n) == 0)
            return true;
    }
    return false;
}

static bool stands_within(const struct added_token *token, const char *bytes, size_t n)
{
    for (size_t at = 1; at + n < token->content_n; at++) {
        if (memcmp(token->content + at, bytes, n) == 0)
            return true;
    }
    return false;
}

/* Most texts have neither a byte that begins a spelling near their end nor one that ends one near
 * their start, and are too long to stand within one: only the others are compared. */
struct added_edges added_special_edges(const struct added_tokens *added, const char *bytes,
                                       size_t n)
{
    struct added_edges edges = { 0 };
    const size_t most = added->longest == 0 ? 0 : added->longest - 1;
    const size_t limit = n < most ? n : most;
    for (size_t k = limit; k > 0 && edges.head == 0; k--) {
        if (added->ends[(unsigned char)bytes[k - 1]] && ends_one(added, bytes, k))
            edges.head = k;
    }
    for (size_t k = limit; k > 0 && edges.tail == 0; k--) {
        if (added->begins[(unsigned char)bytes[n - k]] && begins_one(added, bytes + n - k, k))
            edges.tail = k;
    }
    for (size_t i = 0; n > 0 && n < most && !edges.inside && i < added->n; i++)
        edges.inside = added->tokens[i].special && stands_within(&added->tokens[i], bytes, n);
    return edges;
}
