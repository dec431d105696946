/* A file system without locks, for LD_PRELOAD: every lock fails with the error
 * whose number is in LOCK_ERRNO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

static int refuse(void) {
  errno = atoi(getenv("LOCK_ERRNO"));
  return -1;
}

static int is_lock(int command) {
  return command == F_GETLK || command == F_SETLK || command == F_SETLKW ||
         command == F_OFD_GETLK || command == F_OFD_SETLK ||
         command == F_OFD_SETLKW;
}

int flock(int fd, int operation) { return refuse(); }

#define FCNTL(name)                                                  \
  int name(int fd, int command, ...) {                               \
    va_list rest;                                                    \
    va_start(rest, command);                                         \
    void *argument = va_arg(rest, void *);                           \
    va_end(rest);                                                    \
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, #name);            \
    return is_lock(command) ? refuse() : real(fd, command, argument); \
  }

FCNTL(fcntl)
FCNTL(fcntl64)
