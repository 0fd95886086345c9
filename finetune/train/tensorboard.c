/* Framing and messages by hand: the two formats are small and frozen, and no library of ours has
 * them.
 *
 * A file is a row of TFRecord's records: length (u64, little-endian), masked CRC-32C of those eight
 * bytes, data, masked CRC-32C of the data. Each record's data is an Event in Protocol Buffers'
 * encoding (tensorflow/core/util/event.proto, framework/summary.proto, framework/tensor.proto):
 *
 *     Event       1 wall_time (double)  2 step (int64)  3 file_version (string)
 *                 5 summary (Summary)   7 session_log (SessionLog)
 *     Summary     1 value (Value, repeated)
 *     Value       1 tag (string)        2 simple_value (float)
 *                 8 tensor (Tensor)     9 metadata (SummaryMetadata)
 *     Tensor      1 dtype (7: string)   2 shape (empty: a scalar)    8 string_val (bytes)
 *     SummaryMetadata  1 plugin_data (1 plugin_name)   4 data_class (2: tensor)
 *     SessionLog  1 status (1: START)
 *
 * Scalars are simple_value, which every reader takes: TensorBoard turns it into its own form, and
 * scripts that read event files often know no other.
 */
#include "finetune/train/tensorboard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/core/crc32c.h"
#include "kernels/core/file.h"

enum { FLUSH_BYTES = 64 * 1024, FLUSH_SECONDS = 5, HOST_SIZE = 256 };

/* The latest time a name can hold in its ten digits. */
static const int64_t last_second = 9999999999;

static const char prefix[] = "events.out.tfevents.";

/* ---- Protocol Buffers ---- */

enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void put_varint(struct text *t, uint64_t x)
{
    char bytes[10];
    size_t n = 0;
    for (; x >= 0x80; x >>= 7)
        bytes[n++] = (char)(x | 0x80);
    bytes[n++] = (char)x;
    text_append(t, bytes, n);
}

static void put_fixed(struct text *t, uint64_t x, size_t size)
{
    char bytes[8];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(x >> 8 * i & 0xFF);
    text_append(t, bytes, size);
}

static void put_key(struct text *t, unsigned field, enum wire wire)
{
    put_varint(t, (uint64_t)field << 3 | wire);
}

/* Zero is what a field that is left out has. */
static void put_int(struct text *t, unsigned field, int64_t x)
{
    if (x == 0)
        return;
    put_key(t, field, VARINT);
    put_varint(t, (uint64_t)x);
}

static void put_bytes(struct text *t, unsigned field, const char *bytes, size_t n)
{
    put_key(t, field, BYTES);
    put_varint(t, n);
    text_append(t, bytes, n);
}

/* A string must be UTF-8, or readers refuse the file: other bytes become '?'. */
static void put_string(struct text *t, unsigned field, const char *s)
{
    size_t n = strlen(s), bad = 0, from = 0;
    put_key(t, field, BYTES);
    put_varint(t, n);
    while (!text_is_utf8(s + from, n - from, &bad)) {
        text_append(t, s + from, bad);
        text_append(t, "?", 1);
        from += bad + 1;
    }
    text_append(t, s + from, n - from);
}

/* Puts a message made apart into its parent, and frees it. */
static void put_message(struct text *t, unsigned field, struct text *message)
{
    put_bytes(t, field, message->data, message->len);
    t->failed = t->failed || message->failed;
    text_free(message);
}

/* ---- records ---- */

static double clock_now(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static struct text event_begin(int64_t step)
{
    struct text event = { 0 };
    const double wall_time = clock_now(CLOCK_REALTIME);
    uint64_t bits;
    memcpy(&bits, &wall_time, sizeof bits);
    put_key(&event, 1, FIXED64);
    put_fixed(&event, bits, 8);
    put_int(&event, 2, step);
    return event;
}

/* Frames the event, which is given up, and writes what waits when it is time. */
static bool event_end(struct tensorboard *tb, struct text *event, struct err *err)
{
    struct text *t = &tb->out;
    const size_t start = t->len;
    put_fixed(t, event->len, 8);
    if (!t->failed)
        put_fixed(t, crc32c_masked(t->data + start, 8), 4);
    text_append(t, event->data, event->len);
    put_fixed(t, crc32c_masked(event->data, event->len), 4);
    const bool ok = !t->failed && !event->failed;
    text_free(event);
    if (!ok) { /* only whole records wait */
        t->failed = false;
        t->len = start;
        return err_no_memory(err, tb->path);
    }
    if (t->len < FLUSH_BYTES && clock_now(CLOCK_MONOTONIC) - tb->flushed < FLUSH_SECONDS)
        return true;
    return tensorboard_flush(tb, err);
}

bool tensorboard_flush(struct tensorboard *tb, struct err *err)
{
    struct text *t = &tb->out;
    size_t done = 0;
    int why = 0;
    while (done < t->len && why == 0) {
        const ssize_t put = write(tb->fd, t->data + done, t->len - done);
        if (put >= 0)
            done += (size_t)put;
        else if (errno != EINTR)
            why = errno;
    }
    /* After half a write the rest stays, so that the next one goes on where this one ended. */
    if (done > 0)
        memmove(t->data, t->data + done, t->len - done);
    t->len -= done;
    tb->flushed = clock_now(CLOCK_MONOTONIC);
    return why == 0 || err_set(err, ERR_IO, "%s: cannot be written: %s", tb->path, strerror(why));
}

/* ---- the file ---- */

/* The time for a new file's name: now, but after that of every file there, for readers go through
 * them by name and a run may be resumed within its first second, or after the clock was set back.
 */
static int64_t time_of_name(const char *folder)
{
    int64_t latest = (int64_t)time(NULL);
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (!text_starts_with(e->d_name, prefix))
            continue;
        char *end;
        const long long seconds = strtoll(e->d_name + sizeof prefix - 1, &end, 10);
        if (*end == '.' && seconds >= latest && seconds < last_second)
            latest = seconds + 1;
    }
    if (dir != NULL)
        closedir(dir);
    return latest;
}

/* Creates the file, which must not be there. */
static bool create(struct tensorboard *tb, const char *folder, struct err *err)
{
    enum { MOST = 1000 };
    char host[HOST_SIZE] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "localhost");
    const int64_t seconds = time_of_name(folder);
    for (int n = 0; n < MOST; n++) {
        tb->path = text_format("%s/%s%010" PRId64 ".%s.%ld.%d", folder, prefix, seconds, host,
                               (long)getpid(), n);
        if (tb->path == NULL)
            return err_no_memory(err, folder);
        tb->fd = open(tb->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (tb->fd >= 0)
            return true;
        if (errno != EEXIST || n + 1 == MOST)
            err_set(err, ERR_CANT_CREATE, "%s: cannot be created: %s", tb->path, strerror(errno));
        const bool taken = errno == EEXIST;
        free(tb->path);
        tb->path = NULL;
        if (!taken)
            break;
    }
    return false;
}

/* The first records: the format's version, and the start of a session at the first step that is
 * new, for which readers drop what they have from there on. */
static bool put_head(struct tensorboard *tb, int64_t resumed_step, struct err *err)
{
    struct text version = event_begin(0), start = event_begin(resumed_step + 1), log = { 0 };
    put_string(&version, 3, "brain.Event:2");
    put_int(&log, 1, 1);
    put_message(&start, 7, &log);
    const bool ok = event_end(tb, &version, err);
    if (ok)
        return event_end(tb, &start, err);
    text_free(&start);
    return false;
}

bool tensorboard_open(struct tensorboard *tb, const char *output_dir, int64_t resumed_step,
                      struct err *err)
{
    *tb = (struct tensorboard){ .fd = -1, .flushed = clock_now(CLOCK_MONOTONIC) };
    char *folder = file_join(output_dir, "runs");
    if (folder == NULL)
        return err_no_memory(err, output_dir);
    bool ok = file_make_directory(folder, err) && create(tb, folder, err);
    free(folder);
    ok = ok && put_head(tb, resumed_step, err) && tensorboard_flush(tb, err);
    if (!ok)
        tensorboard_close(tb, NULL);
    return ok;
}

bool tensorboard_close(struct tensorboard *tb, struct err *err)
{
    if (tb->path == NULL)
        return true;
    bool ok = tensorboard_flush(tb, err);
    if (close(tb->fd) != 0 && ok)
        ok = err_set(err, ERR_IO, "%s: cannot be written: %s", tb->path, strerror(errno));
    text_free(&tb->out);
    free(tb->path);
    *tb = (struct tensorboard){ .fd = -1 };
    return ok;
}

/* ---- summaries ---- */

/* A summary of one value, which is given up, as an event. */
static bool put_value(struct tensorboard *tb, int64_t step, struct text *value, struct err *err)
{
    struct text event = event_begin(step), summary = { 0 };
    put_message(&summary, 1, value);
    put_message(&event, 5, &summary);
    return event_end(tb, &event, err);
}

bool tensorboard_scalar(struct tensorboard *tb, const char *tag, int64_t step, double value,
                        struct err *err)
{
    struct text v = { 0 };
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    put_string(&v, 1, tag);
    put_key(&v, 2, FIXED32);
    put_fixed(&v, bits, 4);
    return put_value(tb, step, &v, err);
}

/* Markdown's block of code: four spaces before each line. A fence could be closed by the text. */
static void put_code(struct text *out, const char *s)
{
    for (;;) {
        const size_t n = strcspn(s, "\n");
        text_puts(out, "    ");
        text_append(out, s, n);
        if (s[n] == '\0')
            return;
        text_puts(out, "\n");
        s += n + 1;
    }
}

bool tensorboard_text(struct tensorboard *tb, const char *tag, int64_t step, const char *text,
                      struct err *err)
{
    struct text v = { 0 }, code = { 0 }, shape = { 0 }, tensor = { 0 };
    put_code(&code, text);
    put_int(&tensor, 1, 7);
    put_message(&tensor, 2, &shape);
    put_string(&tensor, 8, code.failed ? "" : code.data);
    tensor.failed = tensor.failed || code.failed;
    text_free(&code);

    struct text plugin = { 0 }, metadata = { 0 };
    put_string(&plugin, 1, "text");
    put_message(&metadata, 1, &plugin);
    put_int(&metadata, 4, 2);

    put_string(&v, 1, tag);
    put_message(&v, 8, &tensor);
    put_message(&v, 9, &metadata);
    return put_value(tb, step, &v, err);
}
