/* Lets calls to the C library fail, as a network file system would; for LD_PRELOAD.

FAIL_CALL: open, write, fsync or rename; FAIL_PATH: part of the path of the file; FAIL_AFTER: how many such calls succeed;
FAIL_ERRNO: the error of the next one, and of it alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int fails(const char *call, const char *path) {
  const char *wanted = getenv("FAIL_CALL"), *part = getenv("FAIL_PATH");
  if (!wanted || !part || strcmp(wanted, call) || !path || !strstr(path, part)) return 0;
  if (atomic_fetch_add(&calls, 1) != atoi(getenv("FAIL_AFTER"))) return 0;
  errno = atoi(getenv("FAIL_ERRNO"));
  return 1;
}

static const char *path_of(int fd, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, size - 1);
  if (length < 0) return NULL;
  path[length] = 0;
  return path;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int open64(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return fails("open", path) ? -1 : NEXT(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = va_arg(more, mode_t);
  va_end(more);
  return fails("open", path) ? -1 : NEXT(open)(path, flags, mode);
}

ssize_t write(int fd, const void *content, size_t size) {
  char path[4096];
  return fails("write", path_of(fd, path, sizeof path)) ? -1 : NEXT(write)(fd, content, size);
}

int fsync(int fd) {
  char path[4096];
  return fails("fsync", path_of(fd, path, sizeof path)) ? -1 : NEXT(fsync)(fd);
}

int rename(const char *from, const char *to) { return fails("rename", to) ? -1 : NEXT(rename)(from, to); }
