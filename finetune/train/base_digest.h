/* Which base a run was made from, without reading all of it: weights may be a hundred gigabytes. */
#ifndef FINETUNE_TRAIN_BASE_DIGEST_H
#define FINETUNE_TRAIN_BASE_DIGEST_H

#include <stdbool.h>

#include "kernels/core/err.h"
#include "kernels/core/sha256.h"

/* SHA-256 over config.json and the weights' files, sorted by name; of random:CONFIG.JSON over that
 * file. A file up to 64 MiB counts whole. Of a larger one its header does, each tensor up to 1 MiB
 * whole, and of each larger tensor 64 samples of 4 KiB, the first and the last bytes among them:
 * another model is always another digest, a few changed bytes in a large matrix may not be. */
bool base_digest(const char *base_model, char hex[SHA256_HEX_SIZE], struct err *err);

#endif
