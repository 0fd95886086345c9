#include "finetune/train/evaluate.h"

#include <string.h>

#include "datasets/batch.h"

/* The result's targets, document by document: they come in the order of the stream's rows. */
static void report_documents(const struct evaluate_args *args, const int64_t *docs, int64_t n_doc,
                             const struct jamba_result *r)
{
    int64_t at = 0;
    for (int64_t i = 0; i < n_doc; i++) {
        const int64_t n = args->set->n_target[docs[i]];
        args->each(args->context, args->set, docs[i], r->logprob + at, n);
        at += n;
    }
}

static void run_documents(struct engine *e, const struct evaluate_args *args, const int64_t *docs,
                          int64_t n_doc, struct evaluation *out)
{
    struct jamba_result r = { 0 };
    stream_fill(&e->stream, args->set, docs, n_doc, 0);
    if (e->stream.n_tok > 0)
        jamba_run(&e->jamba, &e->stream, &(struct jamba_pass){ 0 }, &r);
    out->loss_sum += r.loss_sum;
    out->n_target += r.n_row;
    out->n_tok += e->stream.n_tok;
    out->n_doc += n_doc;
    if (args->each != NULL)
        report_documents(args, docs, n_doc, &r);
}

struct evaluation evaluate(struct engine *e, const struct evaluate_args *args)
{
    struct evaluation out = { 0 };
    enum { MAX_DOCS = 256 }; /* of a pass: their list lives on the stack */
    int64_t docs[MAX_DOCS];
    for (int64_t from = 0; from < args->n_doc;) {
        if (args->stop != NULL && *args->stop) {
            out.stopped = true;
            return out;
        }
        int64_t n = args->n_doc - from < MAX_DOCS ? args->n_doc - from : MAX_DOCS;
        for (int64_t i = 0; i < n; i++)
            docs[i] = args->docs == NULL ? from + i : args->docs[from + i];
        n = batch_pass_end(args->set, docs, n, 0, e->jamba.max_tok);
        run_documents(e, args, docs, n, &out);
        from += n;
    }
    return out;
}
