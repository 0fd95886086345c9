/* Records of a data set: bytes of a file or a folder -> one JSON object at a time.
 *
 *     struct source *s = source_open("quotes.jsonl", err);
 *     json_t *record = NULL;
 *     enum source_result r;
 *     while ((r = source_next(s, &record, err)) == SOURCE_RECORD) {
 *         ... source_place(s) is "quotes.jsonl:118" ...
 *         json_decref(record);
 *     }
 *     source_close(s);             // r is SOURCE_END, or SOURCE_ERROR with err set
 *
 * A file is JSONL or one JSON list, told apart by its first character, plain or ".gz", UTF-8 with
 * or without a byte-order mark, with LF or CRLF. It is streamed: memory is bounded by the longest
 * record. A line without a record in it is passed over (and counted, when a record follows);
 * anything else that is not an object is an error, and so are a file without records and one that
 * ends too early. A folder stands for its *.jsonl, *.json, *.jsonl.gz and *.json.gz in the order of
 * their names.
 */
#ifndef DATASETS_SOURCE_H
#define DATASETS_SOURCE_H

#include <jansson.h>
#include <stdint.h>

#include "kernels/core/err.h"

enum { SOURCE_RECORD_MAX = 16 << 20 }; /* bytes of one record */

enum source_result { SOURCE_RECORD, SOURCE_END, SOURCE_ERROR };

struct source;

/* NULL when there is nothing to read at `path`, or what is there is of a kind that is not read. */
struct source *source_open(const char *path, struct err *err);
void source_close(struct source *s);

/* The caller owns *record. After SOURCE_ERROR only source_close may follow. */
enum source_result source_next(struct source *s, json_t **record, struct err *err);

/* Where the last record came from: "quotes.jsonl:118" (a line, from 1), "quotes.json[117]" (an
 * element, from 0). Valid until the next call. */
const char *source_place(const struct source *s);

/* The same in parts: the file's index, its path, the line or element, and which of the two it is.
 */
int64_t source_file(const struct source *s);
const char *source_file_path(const struct source *s, int64_t file);
int64_t source_n_file(const struct source *s);
int64_t source_number(const struct source *s);
bool source_is_list(const struct source *s);

/* Blank lines before a record, so far. */
int64_t source_n_blank(const struct source *s);

#endif
