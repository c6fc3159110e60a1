#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fusefs/client/fusefs.h"
#include "fusefs/client/window.h"

static _Thread_local char text[256];

int fail(int error, const char* what, ...) {
  va_list arguments;
  va_start(arguments, what);
  const int length = vsnprintf(text, sizeof text, what, arguments);
  va_end(arguments);
  if (length >= 0 && (size_t)length < sizeof text) {
    char reason[128];
    /* The GNU one, which may return a text of its own. */
    snprintf(text + length, sizeof text - (size_t)length, ": %s",
             strerror_r(error, reason, sizeof reason));
  }
  errno = error;
  return -1;
}

const char* fusefs_error(void) { return text; }
