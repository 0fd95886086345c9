/* A graph of sdpa_nodes.h as something that runs: cuDNN's plan of it.
 *
 *     struct sdpa_engine *e = sdpa_engine_open(stream, err);
 *     struct sdpa_plan *p = sdpa_plan_build(e, &graph, true, most_workspace, err);   about a second
 *     sdpa_plan_run(e, p, bound, workspace, err);
 *
 * No cuDNN type shows here: tests/emulation/sdpa_graph.c is another implementation.
 */
#ifndef KERNELS_CUDA_SDPA_GRAPH_H
#define KERNELS_CUDA_SDPA_GRAPH_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/core/err.h"
#include "kernels/cuda/sdpa_nodes.h"

struct sdpa_engine;
struct sdpa_plan;

/* Of the library, as it counts (91900 is 9.19.0). */
size_t sdpa_library_version(void);

/* Multiply-adds of a forward below which a plan is not worth its building. */
double sdpa_least_work(void);

/* Scratch that calls are cut down to, where that is less than what is set aside for them. */
size_t sdpa_most_scratch(void);

/* Runs in the order of `stream` (cudaStream_t). NULL with the reason. */
struct sdpa_engine *sdpa_engine_open(void *stream, struct err *err);

/* Builds plans for a device that need not be there, told by cuDNN's description of it in JSON
 * (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION): what a version of cuDNN supports can be seen on any
 * machine. Its plans cannot be run. */
struct sdpa_engine *sdpa_engine_describe(const char *device_json, struct err *err);

/* Takes NULL. After its plans. */
void sdpa_engine_close(struct sdpa_engine *e);

/* The first of cuDNN's proposals that can be built, takes no more than most_workspace bytes and, if
 * deterministic, does not say of itself that its sums have no fixed order (cuDNN 9.19's say nothing
 * of the kind: with them the order is a matter of the graph alone). NULL with what stood in the
 * way. */
struct sdpa_plan *sdpa_plan_build(struct sdpa_engine *e, const struct sdpa_graph *g,
                                  bool deterministic, size_t most_workspace, struct err *err);
void sdpa_plan_free(struct sdpa_plan *p);
size_t sdpa_plan_workspace(const struct sdpa_plan *p);

/* Queues it. bound: device memory for each tensor that the graph uses, aligned to 16 bytes;
 * workspace: sdpa_plan_workspace bytes. */
bool sdpa_plan_run(struct sdpa_engine *e, const struct sdpa_plan *p, void *const *bound,
                   void *workspace, struct err *err);

#endif
