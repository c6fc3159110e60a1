/* What the parts of libfusefs know of one another.
 *
 *   window.c   the functions of fusefs.h: the windows of this process
 *   road.c     how the memory is fetched: control file or socket
 *   faults.c   the userfaultfd of a mapped window, and what happens when the daemon dies
 *   error.c    errno and the text for people
 */
#ifndef FUSEFS_CLIENT_WINDOW_H
#define FUSEFS_CLIENT_WINDOW_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "fusefs/fusefs_ioctl.h"

/* The static library has one space of names with the program. */
#define fail fusefs_internal_fail
#define fetch_by_file fusefs_internal_fetch_by_file
#define fetch_by_socket fusefs_internal_fetch_by_socket
#define ask fusefs_internal_ask
#define connect_to fusefs_internal_connect_to
#define serve_faults fusefs_internal_serve_faults
#define stop_watch fusefs_internal_stop_watch

/* A window of this process. Descriptors are -1 where there is none. */
struct window {
  struct window* next;
  char* memory;
  size_t bytes;
  dev_t mount;
  struct fusefs_window_ref ref;
  char address[64]; /* of the daemon's socket */
  int control;      /* the control file */
  int socket;       /* its end tells the daemon that we have gone */

  /* A mapped window only. */
  bool mapped;
  bool watched;
  int faults;        /* userfaultfd; the watching thread's while there is one */
  int empty;         /* the file whose memory it becomes when the daemon dies */
  int watch_ends[2]; /* [0] is the thread's; shutting [1] down ends it */
  pthread_t watcher;
};

/* Sets errno and this thread's text, and returns -1. `what` is a printf format; strerror(error) is
 * added to it.
 */
int fail(int error, const char* what, ...) __attribute__((format(printf, 2, 3)));

/* A descriptor of the memory of a window that has just been opened; `window` gets what keeps it
 * alive. -1: said why.
 */
int fetch_by_file(int fd, const struct fusefs_window_open* open, struct window* window);
int fetch_by_socket(const struct fusefs_window_open* open, struct window* window);

/* Sends one hello, with the descriptor `sent` unless it is -1, and takes the answer; `got`, unless
 * NULL, gets the descriptor that came with it, or -1. 0, or -1: said why.
 */
int ask(int socket, const struct fusefs_window_hello* hello, int sent, int* got);
/* A connection to the daemon. -1: said why. */
int connect_to(const char* address);

/* Has the daemon serve the faults of a window whose memory is mapped and whose socket is connected.
 * -1: said why.
 */
int serve_faults(struct window* window);
/* Ends the thread that listens to the daemon; before the memory is unmapped. */
void stop_watch(struct window* window);

#endif
