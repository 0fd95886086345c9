#include "datasets/jinja_strftime.h"

#include <stdio.h>
#include <string.h>

static const char *const days[] = { "Sunday",   "Monday", "Tuesday", "Wednesday",
                                    "Thursday", "Friday", "Saturday" };
static const char *const months[] = { "January",   "February", "March",    "April",
                                      "May",       "June",     "July",     "August",
                                      "September", "October",  "November", "December" };

/* Monday is 0. */
static int weekday(const struct tm *t)
{
    return (t->tm_wday + 6) % 7;
}

static int days_of(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 ? 366 : 365;
}

/* ISO 8601 week and its year: week 1 has the year's first Thursday. */
static int iso_week(const struct tm *t, int *year)
{
    *year = t->tm_year + 1900;
    int week = (t->tm_yday - weekday(t) + 10) / 7;
    if (week < 1) {
        *year -= 1;
        week = (t->tm_yday + days_of(*year) - weekday(t) + 10) / 7;
    } else if (week == 53 && t->tm_yday - weekday(t) + 3 >= days_of(*year)) {
        *year += 1;
        week = 1;
    }
    return week;
}

/* One number: its digits, and what fills it up to its width. */
struct field {
    int value, width;
    char pad; /* '0' or ' ' */
};

/* The directives that are numbers; false when c is none. */
static bool number(const struct tm *t, char c, struct field *f)
{
    const int hour12 = t->tm_hour % 12 == 0 ? 12 : t->tm_hour % 12;
    int iso_year = 0;
    const int iso = iso_week(t, &iso_year);
    const struct {
        char c;
        struct field f;
    } table[] = {
        { 'd', { t->tm_mday, 2, '0' } },
        { 'e', { t->tm_mday, 2, ' ' } },
        { 'm', { t->tm_mon + 1, 2, '0' } },
        { 'y', { (t->tm_year + 1900) % 100, 2, '0' } },
        { 'Y', { t->tm_year + 1900, 1, '0' } },
        { 'C', { (t->tm_year + 1900) / 100, 2, '0' } },
        { 'H', { t->tm_hour, 2, '0' } },
        { 'k', { t->tm_hour, 2, ' ' } },
        { 'I', { hour12, 2, '0' } },
        { 'l', { hour12, 2, ' ' } },
        { 'M', { t->tm_min, 2, '0' } },
        { 'S', { t->tm_sec, 2, '0' } },
        { 'f', { 0, 6, '0' } },
        { 'j', { t->tm_yday + 1, 3, '0' } },
        { 'u', { weekday(t) + 1, 1, '0' } },
        { 'w', { t->tm_wday, 1, '0' } },
        { 'U', { (t->tm_yday + 7 - t->tm_wday) / 7, 2, '0' } },
        { 'W', { (t->tm_yday + 7 - weekday(t)) / 7, 2, '0' } },
        { 'V', { iso, 2, '0' } },
        { 'G', { iso_year, 1, '0' } },
        { 'g', { iso_year % 100, 2, '0' } },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].c == c) {
            *f = table[i].f;
            return true;
        }
    }
    return false;
}

/* The directives that stand for others; NULL when c is none. */
static const char *expansion(char c)
{
    switch (c) {
    case 'c':
        return "%a %b %e %H:%M:%S %Y";
    case 'D':
    case 'x':
        return "%m/%d/%y";
    case 'F':
        return "%Y-%m-%d";
    case 'r':
        return "%I:%M:%S %p";
    case 'R':
        return "%H:%M";
    case 'T':
    case 'X':
        return "%H:%M:%S";
    default:
        return NULL;
    }
}

/* Text directives; the zone is empty, since the time has none. */
static bool name(const struct tm *t, char c, char out[64])
{
    const char *day = days[(unsigned)t->tm_wday % 7], *month = months[(unsigned)t->tm_mon % 12];
    switch (c) {
    case 'a':
        snprintf(out, 64, "%.3s", day);
        return true;
    case 'A':
        snprintf(out, 64, "%s", day);
        return true;
    case 'b':
    case 'h':
        snprintf(out, 64, "%.3s", month);
        return true;
    case 'B':
        snprintf(out, 64, "%s", month);
        return true;
    case 'p':
        snprintf(out, 64, "%s", t->tm_hour < 12 ? "AM" : "PM");
        return true;
    case 'P':
        snprintf(out, 64, "%s", t->tm_hour < 12 ? "am" : "pm");
        return true;
    case 'n':
        snprintf(out, 64, "\n");
        return true;
    case 't':
        snprintf(out, 64, "\t");
        return true;
    case '%':
        snprintf(out, 64, "%%");
        return true;
    case 'z':
    case 'Z':
        out[0] = 0;
        return true;
    default:
        return false;
    }
}

static bool format(struct jinja_run *r, const char *s, size_t n, struct value_text *t)
{
    const struct tm *now = &r->env->now;
    for (size_t i = 0; i < n; i++) {
        char text[64] = "", flag = 0;
        struct field f;
        if (s[i] != '%') {
            if (!text_add(&r->arena, t, s + i, 1))
                return jinja_no_memory(r);
            continue;
        }
        if (i + 1 < n && (s[i + 1] == '-' || s[i + 1] == '_'))
            flag = s[++i];
        const char c = i + 1 < n ? s[++i] : 0;
        if (number(now, c, &f) && (flag == 0 || c != 'f')) {
            const char pad = flag == '_' ? ' ' : f.pad;
            char digits[16];
            snprintf(digits, sizeof digits, "%d", f.value);
            for (int k = (int)strlen(digits); flag != '-' && k < f.width; k++)
                snprintf(text + strlen(text), sizeof text - strlen(text), "%c", pad);
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s", digits);
        } else if (flag == 0 && expansion(c) != NULL) {
            if (!format(r, expansion(c), strlen(expansion(c)), t))
                return false;
        } else if (flag != 0 || !name(now, c, text)) {
            return jinja_fail(r, "strftime_now: the directive '%%%.*s%c' is not supported",
                              flag != 0, &flag, c >= 32 && c < 127 ? c : '?');
        }
        if (!text_add_string(&r->arena, t, text))
            return jinja_no_memory(r);
    }
    return true;
}

bool jinja_strftime(struct jinja_run *r, const struct value_string *f, struct value *out)
{
    struct value_text t = { 0 };
    return format(r, f->data, f->len, &t) && give_text(r, &t, out);
}
