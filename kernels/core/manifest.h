/* manifest.json: sizes and SHA-256 of a folder's other files, so that damage is found.
 *
 *     {"format": 1, "files": {"recipe.yaml": {"bytes": 812, "sha256": "..."}, ...}}
 */
#ifndef KERNELS_CORE_MANIFEST_H
#define KERNELS_CORE_MANIFEST_H

#include <stdbool.h>

#include "kernels/core/err.h"

#define MANIFEST_NAME "manifest.json"

/* Writes dir/manifest.json of these files. */
bool manifest_write(const char *dir, const char *const *names, int n, struct err *err);

/* Reads all of the files and holds them against dir's manifest, which must name these n and no
 * others: a missing file, other bytes or another length are errors (ERR_DATA, ERR_NO_INPUT) that
 * name the file. */
bool manifest_verify(const char *dir, const char *const *names, int n, struct err *err);

/* The same for whatever files the manifest names; a folder without one passes. */
bool manifest_check(const char *dir, struct err *err);

#endif
