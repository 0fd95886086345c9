#include "lora/engines.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lora/peft_spelling.h"

/* ---- names ---- */

static const struct {
    const char *key, *name;
} engines[LORA_ENGINE_COUNT] = {
    [LORA_ENGINE_TRANSFORMERS4] = { "transformers4", "PEFT on transformers 4" },
    [LORA_ENGINE_TRANSFORMERS5] = { "transformers5", "PEFT on transformers 5" },
    [LORA_ENGINE_VLLM] = { "vllm", "vLLM" },
    [LORA_ENGINE_LLAMA_CPP] = { "llama.cpp", "llama.cpp" },
    [LORA_ENGINE_MERGED] = { "merged", "merged" },
};

const char *lora_engine_key(enum lora_engine engine)
{
    return engines[engine].key;
}

const char *lora_engine_name(enum lora_engine engine)
{
    return engines[engine].name;
}

bool lora_engine_parse(const char *key, enum lora_engine *out)
{
    for (int e = 0; e < LORA_ENGINE_COUNT; e++) {
        if (strcmp(key, engines[e].key) == 0) {
            *out = (enum lora_engine)e;
            return true;
        }
    }
    return false;
}

const char *lora_verdict_name(enum lora_verdict verdict)
{
    static const char *const names[] = { [LORA_HONOURED] = "takes effect",
                                         [LORA_MISSCALED] = "wrong scale",
                                         [LORA_IGNORED] = "ignored",
                                         [LORA_REFUSED] = "refused" };
    return names[verdict];
}

/* ---- what the rules look at ---- */

struct judge {
    const struct lora_subject *s;
    struct peft_experts *experts; /* (n_module), of the module's layer; zeros elsewhere */
};

static const struct lora_module *module_at(const struct judge *j, int64_t i)
{
    return &j->s->modules[i];
}

static bool is_expert(const struct judge *j, int64_t i)
{
    return module_at(j, i)->expert >= 0;
}

/* A pair of tensors for every expert, whose names transformers 5 has to translate. */
static bool is_single_expert(const struct judge *j, int64_t i)
{
    return is_expert(j, i) && !j->s->traits->fused_layout;
}

/* ---- rules: PEFT ---- */

static bool fused_expert(const struct judge *j, int64_t i)
{
    return is_expert(j, i) && j->s->traits->fused_layout;
}

static bool renamed(const struct judge *j, int64_t i)
{
    (void)i;
    return j->s->traits->renamed;
}

static bool untargeted(const struct judge *j, int64_t i)
{
    return j->s->traits->untargeted != NULL && j->s->traits->untargeted[i] && !fused_expert(j, i);
}

static bool untargeted_but_expert(const struct judge *j, int64_t i)
{
    return !is_expert(j, i) && untargeted(j, i);
}

static bool router(const struct judge *j, int64_t i)
{
    return module_at(j, i)->kind == LORA_ROUTER && !j->s->traits->router_parameter;
}

static bool dt_proj(const struct judge *j, int64_t i)
{
    return module_at(j, i)->kind == LORA_DT_PROJ;
}

static bool rslora_expert(const struct judge *j, int64_t i)
{
    return is_single_expert(j, i) && j->s->config->use_rslora && !j->s->traits->fused_entries;
}

/* Gate and up of rank r become one parameter of rank 2 r: with rsLoRA the scale loses a sqrt 2. */
static bool rslora_fused_entry(const struct judge *j, int64_t i)
{
    return is_single_expert(j, i) && j->s->config->use_rslora && j->s->traits->fused_entries &&
           module_at(j, i)->kind != LORA_DOWN_PROJ;
}

static bool unlike_experts(const struct judge *j, int64_t i)
{
    return is_single_expert(j, i) && !j->s->config->use_rslora && !j->experts[i].fused;
}

static bool unnamed_experts(const struct judge *j, int64_t i)
{
    return is_single_expert(j, i) && !j->s->config->use_rslora && j->experts[i].fused &&
           !j->s->traits->fused_entries;
}

static bool dropout_on_parameter(const struct judge *j, int64_t i)
{
    const struct peft_traits *t = j->s->traits;
    const bool parameter = (is_expert(j, i) && t->fused_entries) ||
                           (module_at(j, i)->kind == LORA_ROUTER && t->router_parameter);
    return parameter && t->dropout > 0;
}

/* ---- rules: vLLM ---- */

enum { VLLM_MAX_VOCAB = 258048 };
static const int64_t vllm_ranks[] = { 1, 8, 16, 32, 64, 128, 256, 320, 512 };

int64_t lora_vllm_rank(int64_t r)
{
    for (size_t i = 0; i < sizeof vllm_ranks / sizeof *vllm_ranks; i++) {
        if (r <= vllm_ranks[i])
            return vllm_ranks[i];
    }
    return 0;
}

static bool partial_experts(const struct judge *j, int64_t i)
{
    return is_single_expert(j, i) && !j->experts[i].whole;
}

static bool rank_too_high(const struct judge *j, int64_t i)
{
    return lora_vllm_rank(j->s->choices[i].r) == 0;
}

static bool vocabulary_too_large(const struct judge *j, int64_t i)
{
    return module_at(j, i)->kind == LORA_LM_HEAD && module_at(j, i)->out > VLLM_MAX_VOCAB;
}

static bool foreign(const struct judge *j, int64_t i)
{
    (void)i;
    return j->s->traits->foreign;
}

/* Not a rounding of the same. */
static bool differs(double x, double y)
{
    return fabs(x - y) > 1e-12 * fabs(x);
}

/* One alpha and r for all, and for experts never the root. */
static bool rslora_on_experts(const struct judge *j, int64_t i)
{
    return is_expert(j, i) && j->s->config->use_rslora &&
           differs(j->s->config->alpha / (double)j->s->config->r, j->s->choices[i].scale);
}

static bool other_scale(const struct judge *j, int64_t i)
{
    const struct lora_config *c = j->s->config;
    return !(is_expert(j, i) && c->use_rslora) &&
           differs(lora_scale(c, c->r, c->alpha), j->s->choices[i].scale);
}

/* ---- rules: llama.cpp ---- */

static bool tied_embedding(const struct judge *j, int64_t i)
{
    return j->s->tied && module_at(j, i)->kind == LORA_EMBED_TOKENS;
}

static bool tied_head(const struct judge *j, int64_t i)
{
    return j->s->tied && module_at(j, i)->kind == LORA_LM_HEAD;
}

/* d_inner must be twice d_model there. */
static bool other_expansion(const struct judge *j, int64_t i)
{
    (void)i;
    for (int64_t k = 0; k < j->s->n_module; k++) {
        const struct lora_module *m = module_at(j, k);
        if (m->kind == LORA_IN_PROJ && m->out != 4 * m->in)
            return true;
    }
    return false;
}

/* ---- the table ---- */

#define AS_IS_EXPORT "`jambatune export --to peft --engine "
#define IMPORT "`jambatune import` writes it anew"

static const struct rule {
    enum lora_engine engine;
    enum lora_verdict verdict;
    bool cured;
    bool (*hits)(const struct judge *j, int64_t module);
    const char *subject; /* NULL: the modules are named */
    const char *problem, *remedy;
} rules[] = {
    /* PEFT on transformers 4 */
    { LORA_ENGINE_TRANSFORMERS4, LORA_IGNORED, true, fused_expert, NULL,
      "transformers 4 has no fused experts, and PEFT drops their tensors silently", IMPORT },
    { LORA_ENGINE_TRANSFORMERS4, LORA_IGNORED, true, renamed, "tensors under other names",
      "PEFT drops tensors silently whose names it does not know", IMPORT },
    { LORA_ENGINE_TRANSFORMERS4, LORA_IGNORED, true, untargeted, NULL,
      "target_modules leaves them out, and PEFT drops their tensors silently", IMPORT },

    /* PEFT on transformers 5 */
    { LORA_ENGINE_TRANSFORMERS5, LORA_REFUSED, true, router, NULL,
      "transformers 5 refuses to load an adapter with a router target",
      AS_IS_EXPORT "transformers5` names it as a parameter; transformers 4, vLLM and llama.cpp "
                   "honour it" },
    { LORA_ENGINE_TRANSFORMERS5, LORA_IGNORED, false, dt_proj, NULL,
      "transformers from 5.15 on ignores an adapter on dt_proj silently",
      "`jambatune export --to merged`, or train without it; transformers 4, vLLM and llama.cpp "
      "honour it" },
    { LORA_ENGINE_TRANSFORMERS5, LORA_IGNORED, true, rslora_expert, "experts with rsLoRA",
      "transformers 5 drops the experts' adapters silently",
      AS_IS_EXPORT "transformers5` folds the scale; transformers 4 honours it" },
    { LORA_ENGINE_TRANSFORMERS5, LORA_MISSCALED, true, rslora_fused_entry, "experts with rsLoRA",
      "transformers 5 scales gate_proj and up_proj by the root of twice the rank",
      AS_IS_EXPORT "transformers5` folds the scale" },
    { LORA_ENGINE_TRANSFORMERS5, LORA_REFUSED, true, unlike_experts, NULL,
      "transformers 5 cannot load this adapter, because it needs gate_proj and up_proj of all "
      "experts of a layer with one rank and alpha, and down_proj of all or none",
      AS_IS_EXPORT "transformers5` makes them alike; transformers 4 honours it" },
    { LORA_ENGINE_TRANSFORMERS5, LORA_IGNORED, true, unnamed_experts, NULL,
      "target_parameters does not name the fused experts, and PEFT drops their tensors silently",
      IMPORT },
    { LORA_ENGINE_TRANSFORMERS5, LORA_REFUSED, true, dropout_on_parameter, NULL,
      "PEFT refuses lora_dropout on what target_parameters names, even where it has no effect",
      AS_IS_EXPORT "transformers5` sets it to 0" },
    { LORA_ENGINE_TRANSFORMERS5, LORA_IGNORED, true, renamed, "tensors under other names",
      "PEFT drops tensors silently whose names it does not know", IMPORT },
    { LORA_ENGINE_TRANSFORMERS5, LORA_IGNORED, true, untargeted_but_expert, NULL,
      "target_modules leaves them out, and PEFT drops their tensors silently", IMPORT },

    /* vLLM */
    { LORA_ENGINE_VLLM, LORA_REFUSED, true, fused_expert, NULL,
      "vLLM reads an adapter on Jamba's experts as a pair of tensors per expert only", IMPORT },
    { LORA_ENGINE_VLLM, LORA_REFUSED, true, partial_experts, NULL,
      "vLLM refuses an adapter on some of a layer's experts or on some of gate_proj, up_proj and "
      "down_proj",
      AS_IS_EXPORT "vllm` fills in pairs that add nothing" },
    { LORA_ENGINE_VLLM, LORA_REFUSED, false, rank_too_high, NULL, "vLLM takes ranks up to 512",
      "`jambatune export --to merged`, or train a lower rank" },
    { LORA_ENGINE_VLLM, LORA_REFUSED, false, vocabulary_too_large, NULL,
      "vLLM takes an adapter on a head of up to 258048 tokens",
      "`jambatune export --to merged`, or train without it" },
    { LORA_ENGINE_VLLM, LORA_REFUSED, true, foreign, "tensors under other names",
      "vLLM refuses an adapter with a tensor whose name it does not know", IMPORT },
    { LORA_ENGINE_VLLM, LORA_MISSCALED, true, rslora_on_experts, "experts with rsLoRA",
      "vLLM scales experts by alpha / r whatever use_rslora says",
      AS_IS_EXPORT "vllm` folds the scale" },
    { LORA_ENGINE_VLLM, LORA_MISSCALED, true, other_scale,
      "ranks or alphas that differ between modules",
      "vLLM ignores rank_pattern and alpha_pattern and scales every module by lora_alpha and r",
      AS_IS_EXPORT "vllm` folds them into one" },

    /* llama.cpp */
    { LORA_ENGINE_LLAMA_CPP, LORA_REFUSED, false, tied_embedding, "embed_tokens of a tied model",
      "the head keeps the base's matrix and is not adapted with it, and llama.cpp aborts on such "
      "an "
      "adapter",
      "`jambatune export --to merged`, or train without it" },
    { LORA_ENGINE_LLAMA_CPP, LORA_REFUSED, false, tied_head, "lm_head of a tied model",
      "the embedding keeps the base's matrix and is not adapted with it, and llama.cpp, which has "
      "no head of its own there, refuses such an adapter",
      "`jambatune export --to merged`, or train without it" },
    { LORA_ENGINE_LLAMA_CPP, LORA_REFUSED, false, other_expansion, "the base",
      "llama.cpp runs a Jamba whose mamba_expand is 2 only", "serve it with another engine" },
};

enum { N_RULE = sizeof rules / sizeof *rules };
_Static_assert((int)N_RULE <= (int)LORA_MAX_FINDING, "every rule may hit");

/* ---- judging ---- */

/* What a rule hits, by kind, and of experts the layers. */
struct hits {
    int64_t n;
    bool kinds[LORA_KIND_COUNT], all_experts;
    struct text layers;
    int64_t last_layer;
};

static void add_hit(struct hits *h, const struct lora_module *m)
{
    h->all_experts = (h->n == 0 || h->all_experts) && m->expert >= 0;
    h->kinds[m->kind] = true;
    if (m->expert >= 0 && (h->layers.len == 0 || m->layer != h->last_layer))
        text_printf(&h->layers, "%s%" PRId64, h->layers.len > 0 ? ", " : "", m->layer);
    h->last_layer = m->layer;
    h->n++;
}

static char *subject_of(const struct hits *h)
{
    if (h->all_experts)
        return h->layers.failed ? NULL
                                : text_format("experts of layer %s",
                                              h->layers.data != NULL ? h->layers.data : "?");
    struct text names = { 0 };
    for (int k = 0; k < LORA_KIND_COUNT; k++) {
        if (h->kinds[k])
            text_printf(&names, "%s%s", names.len > 0 ? ", " : "",
                        lora_kind_name((enum lora_kind)k));
    }
    if (names.failed)
        text_free(&names);
    return names.data;
}

static bool apply_rule(const struct judge *j, const struct rule *rule, struct lora_report *out)
{
    struct hits h = { 0 };
    for (int64_t i = 0; i < j->s->n_module; i++) {
        if (!j->s->choices[i].on || !rule->hits(j, i))
            continue;
        uint8_t *verdict = &out->verdicts[i][rule->engine];
        if (*verdict < rule->verdict)
            *verdict = (uint8_t)rule->verdict;
        add_hit(&h, module_at(j, i));
    }
    char *subject = rule->subject != NULL ? text_copy(rule->subject) : subject_of(&h);
    text_free(&h.layers);
    if (h.n == 0) {
        free(subject);
        return true;
    }
    out->findings[out->n_finding++] = (struct lora_finding){ .engine = rule->engine,
                                                             .verdict = rule->verdict,
                                                             .cured = rule->cured,
                                                             .subject = subject,
                                                             .problem = rule->problem,
                                                             .remedy = rule->remedy,
                                                             .n_module = h.n };
    return subject != NULL;
}

static void survey_experts(struct judge *j)
{
    const struct peft_view view = { .modules = j->s->modules,
                                    .n = j->s->n_module,
                                    .choices = j->s->choices,
                                    .config = j->s->config };
    for (int64_t at = 0; at < view.n;) {
        const int64_t begin = at;
        if (!is_expert(j, at)) {
            at++;
            continue;
        }
        const struct peft_experts e = peft_layer_experts(&view, &at);
        for (int64_t i = begin; i < at; i++)
            j->experts[i] = e;
    }
}

bool lora_judge(const struct lora_subject *subject, struct lora_report *out, struct err *err)
{
    const size_t n = (size_t)subject->n_module + 1;
    struct judge j = { .s = subject, .experts = calloc(n, sizeof *j.experts) };
    *out = (struct lora_report){ .n_module = subject->n_module,
                                 .verdicts = calloc(n, sizeof *out->verdicts) };
    bool ok = j.experts != NULL && out->verdicts != NULL;
    if (ok)
        survey_experts(&j);
    for (int r = 0; ok && r < N_RULE; r++)
        ok = apply_rule(&j, &rules[r], out);
    free(j.experts);
    if (ok)
        return true;
    lora_report_free(out);
    return err_no_memory(err, "the judgement of the adapter");
}

void lora_report_free(struct lora_report *report)
{
    for (int i = 0; i < report->n_finding; i++)
        free(report->findings[i].subject);
    free(report->verdicts);
    *report = (struct lora_report){ 0 };
}

enum lora_verdict lora_report_verdict(const struct lora_report *report, enum lora_engine engine)
{
    enum lora_verdict worst = LORA_HONOURED;
    for (int64_t i = 0; i < report->n_module; i++) {
        if (report->verdicts[i][engine] > (uint8_t)worst)
            worst = (enum lora_verdict)report->verdicts[i][engine];
    }
    return worst;
}

void lora_report_line(const struct lora_report *report, enum lora_engine engine, struct text *out)
{
    if (lora_report_verdict(report, engine) == LORA_HONOURED) {
        text_puts(out, lora_verdict_name(LORA_HONOURED));
        return;
    }
    const char *end = "";
    for (int i = 0; i < report->n_finding; i++) {
        const struct lora_finding *f = &report->findings[i];
        if (f->engine != engine)
            continue;
        text_printf(out, "%s%s: %s (%s)", end, lora_verdict_name(f->verdict), f->subject,
                    f->remedy);
        end = "; ";
    }
}

void peft_traits_free(struct peft_traits *traits)
{
    free(traits->untargeted);
    *traits = (struct peft_traits){ 0 };
}

int64_t lora_highest_rank(const struct lora_choice *choices, int64_t n)
{
    int64_t highest = 0;
    for (int64_t i = 0; i < n; i++) {
        if (choices[i].on && choices[i].r > highest)
            highest = choices[i].r;
    }
    return highest;
}
