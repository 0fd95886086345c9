/* Learning how a template frames an answer, when it is opened. */
#ifndef DATASETS_TEMPLATE_FRAME_H
#define DATASETS_TEMPLATE_FRAME_H

#include "datasets/template.h"

/* Renders a question and an answer, alone and with another question, with a tool or without. Fails
 * only when memory is out: a template that does not take them has an empty frame. */
bool template_frame_learn(const struct chat_template *t, bool has_tools, struct template_frame *out,
                          struct err *err);
void template_frame_free(struct template_frame *frame);

#endif
