#include "recipes/yaml.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "kernels/core/file.h"
#include "kernels/core/text.h"

struct reader {
    const char *place; /* the file's path, or "command line: key=value" */
    bool is_file;
    const char *bytes;
    struct recipe_report *report;
    struct node *stack[NODE_MAX_DEPTH];
    int depth;
    char *key; /* of a mapping entry whose value comes next */
    yaml_mark_t key_mark;
    bool skip_key; /* the entry is a duplicate: its value is read and dropped */
    int64_t n_node;
    struct node *root;
};

static bool fail(struct reader *r, yaml_mark_t mark, const char *text)
{
    char place[NODE_PLACE_SIZE];
    if (r->is_file)
        snprintf(place, sizeof place, "%.400s:%zu:%zu", r->place, mark.line + 1, mark.column + 1);
    else
        snprintf(place, sizeof place, "%.400s", r->place);
    report_error(r->report, r->is_file ? ERR_RECIPE : ERR_USAGE, place, "%s", text);
    return false;
}

static bool out_of_memory(struct reader *r)
{
    report_no_memory(r->report);
    return false;
}

/* The mapping or list being filled, NULL at the root. */
static struct node *parent(const struct reader *r)
{
    return r->depth == 0 ? NULL : r->stack[r->depth - 1];
}

/* A scalar where a mapping expects a key. */
static bool take_key(struct reader *r, const char *text, size_t n, yaml_mark_t mark)
{
    if (strlen(text) != n)
        return fail(r, mark, "a key holds a NUL character; expected a name");
    r->key = text_copy(text);
    if (r->key == NULL)
        return out_of_memory(r);
    r->key_mark = mark;
    const struct node *first = node_find(parent(r), text);
    r->skip_key = first != NULL;
    if (first == NULL)
        return true;
    struct text message = { 0 };
    text_printf(&message, "key '%.60s' appears twice", text);
    if (r->is_file)
        text_printf(&message, " (first at line %" PRId64 ")", first->key_line);
    text_puts(&message, "; keep one");
    if (message.failed)
        report_no_memory(r->report);
    else
        fail(r, mark, message.data);
    text_free(&message);
    return true; /* the rest can still be checked */
}

/* Hangs node (owned from here on) under the open parent. */
static bool take_node(struct reader *r, struct node *node, yaml_mark_t mark)
{
    if (node == NULL)
        return out_of_memory(r);
    node->line = (int64_t)mark.line + 1;
    node->column = (int64_t)mark.column + 1;
    struct node *up = parent(r);
    if (up == NULL) {
        r->root = node;
    } else {
        if (up->kind == NODE_MAP) {
            node->key = r->key;
            node->key_line = (int64_t)r->key_mark.line + 1;
            node->key_column = (int64_t)r->key_mark.column + 1;
            r->key = NULL;
        }
        if (r->skip_key && up->kind == NODE_MAP) {
            /* Kept under a name no lookup asks for, so that what is below still parses. */
            free(node->key);
            node->key = NULL;
            r->skip_key = false;
        }
        if (!node_add(up, node)) {
            node_free(node);
            return out_of_memory(r);
        }
    }
    if (node->kind != NODE_LIST && node->kind != NODE_MAP)
        return true;
    if (r->depth == NODE_MAX_DEPTH)
        return fail(r, mark, "nested more than 32 levels deep; a recipe needs three");
    r->stack[r->depth++] = node;
    return true;
}

static bool is_key_next(const struct reader *r)
{
    return parent(r) != NULL && parent(r)->kind == NODE_MAP && r->key == NULL;
}

static bool take_scalar(struct reader *r, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    const size_t n = event->data.scalar.length;
    if (event->data.scalar.anchor != NULL)
        return fail(r, event->start_mark,
                    "an anchor ('&'); a recipe has none: write the value out");
    if (event->data.scalar.tag != NULL)
        return fail(r, event->start_mark, "a tag ('!'); a recipe has none: remove it");
    if (is_key_next(r))
        return take_key(r, text, n, event->start_mark);
    if (strlen(text) != n)
        return fail(r, event->start_mark, "a value holds a NUL character; expected text");
    const bool quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return take_node(r, node_new_scalar(text, quoted), event->start_mark);
}

static bool take_start(struct reader *r, const yaml_event_t *event)
{
    const bool is_map = event->type == YAML_MAPPING_START_EVENT;
    const yaml_char_t *anchor =
        is_map ? event->data.mapping_start.anchor : event->data.sequence_start.anchor;
    const yaml_char_t *tag =
        is_map ? event->data.mapping_start.tag : event->data.sequence_start.tag;
    if (anchor != NULL)
        return fail(r, event->start_mark,
                    "an anchor ('&'); a recipe has none: write the value out");
    if (tag != NULL)
        return fail(r, event->start_mark, "a tag ('!'); a recipe has none: remove it");
    if (is_key_next(r))
        return fail(r, event->start_mark, "a list or mapping stands where a key is expected");
    return take_node(r, node_new(is_map ? NODE_MAP : NODE_LIST), event->start_mark);
}

static bool take_event(struct reader *r, const yaml_event_t *event, int *n_document)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++*n_document > 1)
            return fail(r, event->start_mark, "a second document begins; a recipe is one document");
        return true;
    case YAML_ALIAS_EVENT:
        return fail(r, event->start_mark, "an alias ('*'); a recipe has none: write the value out");
    case YAML_SCALAR_EVENT:
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        if (++r->n_node > YAML_MAX_NODES)
            return fail(r, event->start_mark, "more than 10000 values; is this a recipe?");
        return event->type == YAML_SCALAR_EVENT ? take_scalar(r, event) : take_start(r, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        r->depth--;
        return true;
    default:
        return true;
    }
}

/* Whether the line (from 0) begins with white space that holds a tab. */
static bool line_has_tab(const char *bytes, size_t line)
{
    for (; line > 0 && bytes != NULL; line--) {
        bytes = strchr(bytes, '\n');
        bytes = bytes == NULL ? NULL : bytes + 1;
    }
    return bytes != NULL && bytes[strspn(bytes, " ")] == '\t';
}

static bool fail_syntax(struct reader *r, const yaml_parser_t *parser)
{
    if (parser->error == YAML_MEMORY_ERROR)
        return out_of_memory(r);
    if (line_has_tab(r->bytes, parser->problem_mark.line))
        return fail(r, parser->problem_mark, "the line is indented with a tab; YAML takes spaces");
    struct text message = { 0 };
    text_printf(&message, "not valid YAML: %s", parser->problem == NULL ? "?" : parser->problem);
    if (parser->context != NULL && r->is_file)
        text_printf(&message, " (%s that begins at line %zu)", parser->context,
                    parser->context_mark.line + 1);
    if (message.failed)
        report_no_memory(r->report);
    else
        fail(r, parser->problem_mark, message.data);
    text_free(&message);
    return false;
}

/* All events of bytes[0..n); afterwards r->root is the tree, possibly of a part. */
static bool read_events(struct reader *r, size_t n)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return out_of_memory(r);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)r->bytes, n);
    bool ok = true, end = false;
    int n_document = 0;
    while (ok && !end) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            ok = fail_syntax(r, &parser);
            break;
        }
        end = event.type == YAML_STREAM_END_EVENT;
        ok = take_event(r, &event, &n_document);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    free(r->key);
    r->key = NULL;
    return ok;
}

/* Duplicates were kept nameless under their mapping: drop them. */
static void drop_nameless(struct node *node)
{
    for (int64_t i = node->n_child - 1; i >= 0; i--) {
        if (node->kind == NODE_MAP && node->child[i]->key == NULL)
            node_remove(node, i);
        else
            drop_nameless(node->child[i]);
    }
}

static struct node *finish(struct reader *r, bool ok)
{
    if (!ok) {
        node_free(r->root);
        return NULL;
    }
    if (r->root != NULL)
        drop_nameless(r->root);
    return r->root;
}

/* Line and column (in characters) of a byte offset. */
static yaml_mark_t mark_at(const char *bytes, size_t at)
{
    yaml_mark_t mark = { 0 };
    for (size_t i = 0; i < at; i++) {
        mark.column += ((unsigned char)bytes[i] & 0xC0) != 0x80;
        if (bytes[i] == '\n') {
            mark.line++;
            mark.column = 0;
        }
    }
    return mark;
}

static struct node *parse_file(struct reader *r, size_t n)
{
    size_t bad = 0;
    if (!text_is_utf8(r->bytes, n, &bad)) {
        fail(r, mark_at(r->bytes, bad), "a byte that is not UTF-8; save the recipe as UTF-8");
        return NULL;
    }
    struct node *root = finish(r, read_events(r, n));
    if (r->report->code != ERR_NONE && root == NULL)
        return NULL;
    if (root == NULL || root->kind == NODE_NULL) {
        report_error(r->report, ERR_RECIPE, r->place,
                     "the recipe is empty; expected keys such as 'base_model' and 'datasets'");
    } else if (root->kind != NODE_MAP) {
        char show[NODE_SHOW_SIZE];
        node_show(root, show);
        report_error(r->report, ERR_RECIPE, r->place,
                     "the recipe is %s; expected 'key: value' lines", show);
    } else {
        return root;
    }
    node_free(root);
    return NULL;
}

struct node *yaml_load(const char *path, struct recipe_report *report)
{
    struct err err = { 0 };
    char *bytes = NULL;
    size_t n = 0;
    if (!file_read(path, YAML_MAX_BYTES, &bytes, &n, &err)) {
        /* err.text begins with the path already */
        const size_t skip = strlen(path) + 2;
        report_error(report, err.code == ERR_DATA ? ERR_RECIPE : err.code, path, "%s",
                     strlen(err.text) > skip && text_starts_with(err.text, path) ? err.text + skip
                                                                                 : err.text);
        return NULL;
    }
    const size_t bom = n >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    struct reader r = { .place = path, .is_file = true, .bytes = bytes + bom, .report = report };
    struct node *root = parse_file(&r, n - bom);
    free(bytes);
    return root;
}

struct node *yaml_parse_value(const char *text, const char *place, struct recipe_report *report)
{
    struct reader r = { .place = place, .bytes = text, .report = report };
    return finish(&r, read_events(&r, strlen(text)));
}
