/* The parts pages are made of. Every text that is not a literal of ours goes through page_escaped:
 * prompts, samples, paths and recipes may hold anything. */
#ifndef FINETUNE_REPORT_PAGE_H
#define FINETUNE_REPORT_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/core/text.h"

/* Line by line, up to NULL. */
extern const char *const report_style[], *const report_script[];

/* Text between tags or in a quoted attribute. What is no UTF-8, controls but for line ends and
 * tabs, and overrides of a text's direction become U+FFFD. s may be NULL. */
void page_escaped(struct text *page, const char *s);

/* At most about `limit` bytes of it, and then a "..."; false where it was cut. */
bool page_escaped_cut(struct text *page, const char *s, size_t limit);

/* Up to and with the body's tag; and the rest. */
void page_begin(struct text *page, const char *title);
void page_end(struct text *page);

/* A section with a heading; and a table in a box that scrolls by itself. classes may be "". */
void page_section(struct text *page, const char *heading);
void page_section_end(struct text *page);
void page_table(struct text *page, const char *label, const char *classes);
void page_table_end(struct text *page);

/* One cell, escaped. */
void page_cell(struct text *page, const char *s);
void page_cell_number(struct text *page, const char *s);

/* A row of a table of facts: name and value. */
void page_fact(struct text *page, const char *name, const char *value);

/* Numbers for reading. */
enum { PAGE_NUMBER_SIZE = 40 };
void page_number(char out[PAGE_NUMBER_SIZE], double v);   /* "2.3456", "1.2e-05", "NaN" */
void page_quantity(char out[PAGE_NUMBER_SIZE], double v); /* "12 345", "1.25 M" */
void page_duration(char out[PAGE_NUMBER_SIZE], double seconds);
void page_bytes(char out[PAGE_NUMBER_SIZE], double bytes);

#endif
