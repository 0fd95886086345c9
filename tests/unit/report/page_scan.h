/* A strict reading of a page: every tag closes in order, every attribute is quoted, text holds no
 * stray markup. What a browser would forgive fails here. */
#ifndef TESTS_UNIT_REPORT_PAGE_SCAN_H
#define TESTS_UNIT_REPORT_PAGE_SCAN_H

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "kernels/core/text.h"

enum { SCAN_DEPTH = 64, SCAN_NAME = 32 };

struct page_scan {
    const char *at;
    char open[SCAN_DEPTH][SCAN_NAME];
    int depth, n_tag, n_script;
    char problem[256];
};

static inline bool scan_fail(struct page_scan *s, const char *problem)
{
    snprintf(s->problem, sizeof s->problem, "%s at '%.60s'", problem, s->at);
    return false;
}

static inline size_t scan_name_length(const char *s)
{
    size_t n = 0;
    while (isalnum((unsigned char)s[n]) || s[n] == '-')
        n++;
    return n;
}

/* An entity of those that are written. */
static inline bool scan_entity(const char *s)
{
    static const char *const entities[] = { "&amp;", "&lt;", "&gt;", "&quot;", "&#39;" };
    for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
        if (strncmp(s, entities[i], strlen(entities[i])) == 0)
            return true;
    }
    return false;
}

/* Up to the end of a tag; *empty: it ends in "/>". */
static inline bool scan_attributes(struct page_scan *s, bool *empty)
{
    *empty = false;
    for (;;) {
        s->at += strspn(s->at, " \n");
        if (strncmp(s->at, "/>", 2) == 0) {
            *empty = true;
            s->at += 2;
            return true;
        }
        if (*s->at == '>') {
            s->at++;
            return true;
        }
        const size_t n = scan_name_length(s->at);
        if (n == 0)
            return scan_fail(s, "no attribute");
        if (strncmp(s->at, "on", 2) == 0)
            return scan_fail(s, "a handler");
        if (strncmp(s->at + n, "=\"", 2) != 0)
            return scan_fail(s, "an attribute without a quoted value");
        for (s->at += n + 2; *s->at != '"'; s->at++) {
            if (*s->at == '\0' || *s->at == '<' || (*s->at == '&' && !scan_entity(s->at)))
                return scan_fail(s, "markup in an attribute");
        }
        s->at++;
    }
}

static inline bool scan_close(struct page_scan *s)
{
    const size_t n = scan_name_length(s->at + 2);
    if (s->depth == 0 || strlen(s->open[s->depth - 1]) != n ||
        strncmp(s->open[s->depth - 1], s->at + 2, n) != 0 || s->at[2 + n] != '>')
        return scan_fail(s, "the wrong tag is closed");
    s->depth--;
    s->at += n + 3;
    return true;
}

static inline bool scan_open(struct page_scan *s)
{
    const size_t n = scan_name_length(s->at + 1);
    char end[SCAN_NAME + 3];
    bool empty = false;
    if (n == 0 || n >= SCAN_NAME || s->depth == SCAN_DEPTH)
        return scan_fail(s, "no tag");
    snprintf(s->open[s->depth], SCAN_NAME, "%.*s", (int)n, s->at + 1);
    const char *name = s->open[s->depth];
    s->at += n + 1;
    s->n_tag++;
    if (!scan_attributes(s, &empty))
        return false;
    s->depth += !empty;
    s->n_script += strcmp(name, "script") == 0;
    if (strcmp(name, "script") != 0 && strcmp(name, "style") != 0)
        return true;
    snprintf(end, sizeof end, "</%s", name); /* what is between is no markup */
    const char *stop = strstr(s->at, end);
    if (stop == NULL)
        return scan_fail(s, "not closed");
    s->at = stop;
    return true;
}

static inline bool scan_page(struct page_scan *s, const char *page)
{
    static const char doctype[] = "<!DOCTYPE html>\n";
    *s = (struct page_scan){ .at = page };
    if (strncmp(page, doctype, sizeof doctype - 1) != 0)
        return scan_fail(s, "no doctype");
    if (!text_is_utf8(page, strlen(page), NULL))
        return scan_fail(s, "no UTF-8");
    s->at += sizeof doctype - 1;
    while (*s->at != '\0') {
        const unsigned char c = (unsigned char)*s->at;
        if (strncmp(s->at, "</", 2) == 0) {
            if (!scan_close(s))
                return false;
        } else if (c == '<') {
            if (!scan_open(s))
                return false;
        } else if (c == '>' || (c == '&' && !scan_entity(s->at)) ||
                   (c < 0x20 && c != '\n' && c != '\t')) {
            return scan_fail(s, "a character that should be escaped");
        } else {
            s->at++;
        }
    }
    return s->depth == 0 || scan_fail(s, "a tag stays open");
}

#endif
