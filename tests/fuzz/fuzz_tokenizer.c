/* tokenizer.json, and behind a zero byte tokenizer_config.json: a tokenizer that opens turns any
 * text into ids that it has, and back into the same text whole or a token at a time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "datasets/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static void check_decode(const struct tokenizer *tok, const struct token_list *tokens, bool skip)
{
    struct text whole = { 0 }, pieces = { 0 };
    struct token_stream s = { 0 };
    FUZZ_CHECK(tokenizer_decode(tok, tokens->ids, tokens->n, skip, &whole, NULL));
    FUZZ_CHECK(tokenizer_stream_init(&s, tok, skip, NULL));
    for (int64_t t = 0; t < tokens->n; t++) {
        FUZZ_CHECK(tokenizer_stream_push(&s, tokens->ids[t], &pieces, NULL));
        FUZZ_CHECK(text_is_utf8(pieces.data != NULL ? pieces.data : "", pieces.len, NULL));
    }
    FUZZ_CHECK(tokenizer_stream_finish(&s, &pieces, NULL));
    FUZZ_CHECK(whole.len == pieces.len);
    FUZZ_CHECK(whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0);
    tokenizer_stream_free(&s);
    text_free(&whole);
    text_free(&pieces);
}

static void check_text(const struct tokenizer *tok, const char *text, size_t n)
{
    struct token_list tokens = { 0 };
    struct range_list special = { 0 };
    for (int how = 0; how < 4; how++) {
        struct err err = { 0 };
        tokens.n = 0;
        const bool ok = how < 2 ? tokenizer_encode(tok, text, n, how == 1, &tokens, &err)
                                : tokenizer_encode_special(tok, text, n, how == 3, &tokens, &err);
        FUZZ_CHECK(ok == (err.code == ERR_NONE) && (ok || tokens.n == 0));
        for (int64_t t = 0; t < tokens.n; t++) {
            FUZZ_CHECK(tokens.ids[t] >= 0 && tokens.ids[t] < tokenizer_vocab_size(tok));
            FUZZ_CHECK(tokenizer_piece(tok, tokens.ids[t]) != NULL);
            FUZZ_CHECK(tokens.begin[t] >= (t > 0 ? tokens.begin[t - 1] : 0));
            FUZZ_CHECK((size_t)tokens.begin[t] <= n);
        }
        check_decode(tok, &tokens, how % 2 == 0);
    }
    struct err err = { 0 };
    if (tokenizer_find_special(tok, text, n, &special, &err)) {
        for (size_t i = 0; i < special.n; i++)
            FUZZ_CHECK(special.at[i].begin < special.at[i].end && special.at[i].end <= n);
    }
    range_list_free(&special);
    token_list_free(&tokens);
}

bool fuzz_tokenizer(const uint8_t *bytes, size_t n, struct err *err)
{
    static const char text[] = "<s>ab  Ab1\t12\xC3\xA9\n\xE6\xBC\xA2\xF0\x9F\x99\x82</s> aab";
    const struct fuzz_pair in = fuzz_split(bytes, n);
    char path[FUZZ_PATH_SIZE];
    snprintf(path, sizeof path, "%s/tokenizer_config.json", fuzz_folder("tokenizer"));
    unlink(path);
    if (in.second != NULL)
        fuzz_write("tokenizer", "tokenizer_config.json", in.second, in.n_second, path);
    fuzz_write("tokenizer", "tokenizer.json", in.first, in.n_first, path);
    struct tokenizer *tok = tokenizer_open(fuzz_folder("tokenizer"), err);
    if (tok == NULL)
        return false;
    FUZZ_CHECK(tokenizer_vocab_size(tok) > 0);
    FUZZ_CHECK(tokenizer_bos(tok) < tokenizer_vocab_size(tok));
    FUZZ_CHECK(tokenizer_eos(tok) < tokenizer_vocab_size(tok));
    check_text(tok, "", 0);
    check_text(tok, text, sizeof text - 1);
    check_text(tok, (const char *)bytes, n < 300 ? n : 300);
    tokenizer_free(tok);
    return true;
}
