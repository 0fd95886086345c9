/* What each engine that serves Jamba makes of an adapter: the rules, in one table.
 *
 *     struct lora_report report = { 0 };
 *     if (!lora_judge(&subject, &report, err)) ...
 *     for (int i = 0; i < report.n_finding; i++) ... report.findings[i].problem ...
 *     ... lora_report_verdict(&report, LORA_ENGINE_VLLM) ...
 *     lora_report_free(&report);
 *
 * For transformers and vLLM the judgement is of the folder as it is; llama.cpp and a merged
 * checkpoint get the adapter through `jambatune export`, and are judged by what comes out of that.
 * The rules were read in, and run against, transformers 4.57.6 with peft 0.18.1, transformers
 * 5.23.0 with peft 0.21.2 and llama.cpp; vLLM's were read in its sources of August 2026.
 */
#ifndef LORA_ENGINES_H
#define LORA_ENGINES_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "lora/config.h"
#include "lora/module.h"
#include "lora/target.h"

enum lora_engine {
    LORA_ENGINE_TRANSFORMERS4, /* peft on transformers 4 */
    LORA_ENGINE_TRANSFORMERS5,
    LORA_ENGINE_VLLM,
    LORA_ENGINE_LLAMA_CPP,
    LORA_ENGINE_MERGED, /* any engine, on a checkpoint with the adapter folded in */
    LORA_ENGINE_COUNT,
};

/* "transformers4", "transformers5", "vllm", "llama.cpp", "merged": as the command line spells them.
 */
const char *lora_engine_key(enum lora_engine engine);

/* "PEFT on transformers 4", ..., "vLLM", "llama.cpp", "merged". */
const char *lora_engine_name(enum lora_engine engine);

/* Of a key; false when it is none. */
bool lora_engine_parse(const char *key, enum lora_engine *out);

/* From the best to the worst. */
enum lora_verdict {
    LORA_HONOURED,
    LORA_MISSCALED, /* applied, with another factor than it was trained with */
    LORA_IGNORED,   /* without a word */
    LORA_REFUSED,   /* the engine does not load the adapter */
};

/* "takes effect", "wrong scale", "ignored", "refused". */
const char *lora_verdict_name(enum lora_verdict verdict);

/* How an adapter's folder is written, as far as engines mind. */
struct peft_traits {
    bool fused_layout;  /* the experts' tensors are fused, as PEFT saves them on transformers 5 */
    bool fused_entries; /* target_parameters names the fused experts */
    bool router_parameter; /* and the routers' matrices */
    bool renamed;          /* some tensors have names that PEFT does not find */
    bool foreign;          /* nor does vLLM */
    double dropout;        /* lora_dropout */
    bool *untargeted;      /* (n_module) adapted, but not by target_modules; owned; may be NULL */
};
void peft_traits_free(struct peft_traits *traits);

struct lora_subject {
    const struct lora_module *modules;
    int64_t n_module;
    const struct lora_choice *choices; /* (n_module) */
    const struct lora_config *config;
    const struct peft_traits *traits;
    bool tied; /* the base's head uses the embedding's matrix */
};

/* One rule that hits. All text is static but `subject`. */
struct lora_finding {
    enum lora_engine engine;
    enum lora_verdict verdict;
    bool cured;    /* `jambatune export` for that engine makes it take effect */
    char *subject; /* "dt_proj", "experts of layer 1, 3" */
    const char *problem, *remedy;
    int64_t n_module; /* that it hits */
};

enum { LORA_MAX_FINDING = 32 };

struct lora_report {
    int64_t n_module;
    uint8_t (*verdicts)[LORA_ENGINE_COUNT]; /* (n_module): enum lora_verdict of each */
    struct lora_finding findings[LORA_MAX_FINDING];
    int n_finding;
};

/* Errors: out of memory. */
bool lora_judge(const struct lora_subject *subject, struct lora_report *out, struct err *err);
void lora_report_free(struct lora_report *report);

/* The worst of all modules. */
enum lora_verdict lora_report_verdict(const struct lora_report *report, enum lora_engine engine);

/* One line: "takes effect", or what does not and the way out. Appended, without a newline. */
void lora_report_line(const struct lora_report *report, enum lora_engine engine, struct text *out);

/* The max_lora_rank that vLLM has to be started with for this rank; 0 when it takes no such rank.
 */
int64_t lora_vllm_rank(int64_t r);

/* The highest rank among the choices. */
int64_t lora_highest_rank(const struct lora_choice *choices, int64_t n);

#endif
