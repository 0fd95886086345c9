/* A checkpoint's tokenizer as the keys of a GGUF file, such that llama.cpp cuts a text into the
 * same tokens.
 *
 * A Jamba's tokenizer.json is BPE over characters: spaces become U+2581, merges apply by rank over
 * the whole text, a character without a piece falls apart into byte tokens. llama.cpp has two
 * tokenizers for such vocabularies. Its "llama" merges any two neighbours that make a piece, the
 * one of the highest score first, and knows no merges: that is SentencePiece, and not what
 * tokenizer.json says wherever a piece can be made in two ways or runs of spaces tie. Its "gpt2"
 * with the pre-tokenizer "sarvam-moe" ranks merges, escapes spaces, falls back to bytes and cuts
 * the text at newlines only: with a tokenizer.json that passes the checks below its tokens are
 * ours, for every text. So that is what is written; it takes llama.cpp b9094 (May 2026) or newer.
 *
 * Special tokens become control tokens (recognised where templates write them, not in plain text),
 * other added tokens user-defined ones (recognised everywhere): the rule of datasets/tokenizer.h.
 */
#ifndef FINETUNE_EXPORT_GGUF_TOKENIZER_H
#define FINETUNE_EXPORT_GGUF_TOKENIZER_H

#include <stdbool.h>

#include "finetune/model/config.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "kernels/format/gguf.h"

/* Adds the keys for the tokenizer in that folder: tokens, their types, merges, special ids (all
 * that end a text: llama.cpp has room for three), which are added to a text, chat templates.
 * Without a tokenizer.json the tokens are placeholders, and notes say so.
 *
 * Refused, with key path: steps that llama.cpp does not have (another normalizer, splits, a prefix,
 * added tokens that take in spaces or stand for whole words only), merges of byte tokens or across
 * newlines, ids outside the embedding, no token that ends a text. */
bool gguf_put_tokenizer(struct gguf_writer *w, const char *folder,
                        const struct jamba_config *config, struct text *notes, struct err *err);

#endif
