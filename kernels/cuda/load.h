/* The CUDA backend, if this machine has a device.
 *
 *     struct cuda_facts facts;
 *     if (cuda_available(&facts, err)) ...
 *     if (!cuda_backend_open(&be, &(struct cuda_options){ .act = DTYPE_BF16 }, err)) ...
 *     be.scratch = &scratch;      // arena_init_in(&scratch, be.device, ...)
 *     ...
 *     cuda_backend_close(&be);
 *
 * The module is libjambatune_cuda.so beside the program, opened only where an NVIDIA driver is
 * present (libcuda.so.1). JAMBATUNE_CUDA_MODULE names another file, which is opened in any case:
 * tests run the emulated one. JAMBATUNE_CUDA_MODULE=none: as if there were no device.
 */
#ifndef KERNELS_CUDA_LOAD_H
#define KERNELS_CUDA_LOAD_H

#include "kernels/core/backend.h"
#include "kernels/cuda/module.h"

/* NULL with the reason: no driver, no module, a module of another build. Cheap to call again: the
 * system keeps what it has opened. */
const struct cuda_module *cuda_load(struct err *err);

/* Whether there is a device to use; facts may be NULL. False with the reason. */
bool cuda_available(struct cuda_facts *facts, struct err *err);

/* Opens device 0. The backend's scratch is the caller's to set. */
bool cuda_backend_open(struct backend *be, const struct cuda_options *options, struct err *err);
void cuda_backend_close(struct backend *be); /* a zeroed one too */

/* A backend that only knows the CUDA ops' scratch sizes: for plans, on any machine. Its device is
 * NULL and its ops cannot be called; kernels/plan stands for it. */
void cuda_backend_for_plan(struct backend *be, enum dtype act, bool nondeterministic);

/* What became of the attention calls so far that are work for cuDNN; zeros on another backend. */
void cuda_backend_attention_calls(const struct backend *be, struct cuda_attention_calls *out);

/* A line for the user when cuDNN refused some, so that our own, slower kernels ran: how many and
 * why; false when there is nothing to tell. Any backend; no waiting. */
enum { CUDA_NOTE_SIZE = 320 };
bool cuda_attention_note(const struct backend *be, char text[CUDA_NOTE_SIZE]);

/* Of the bytes of a file for cuda_options.tuned: which algorithms a run uses decides its rounding,
 * so this is part of the run's state. */
bool cuda_tuned_digest(const char *path, uint64_t *digest, struct err *err);

#endif
