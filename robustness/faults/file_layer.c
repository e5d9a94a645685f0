/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer between a program and the C library's file functions (LD_PRELOAD).
 *
 * It numbers the operations that change files below one folder, over all
 * processes that share its control file, and at a chosen number kills the
 * process, fails the call or cuts it short. TensorFlow's event files, which a
 * thread of their own writes, have numbers of their own, so that those of all
 * other files are the same in every run. `file_layer.py` is the other side.
 *
 * With `power` set it also keeps what a disk would keep: a hard link of every
 * file that is made and a copy of each file when it is synced.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#undef fwrite_unlocked

enum action { NONE, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, FAIL, SHORT };

/* Those up to LINK need room on the disk. */
enum kind { OPEN, WRITE, FWRITE, FLUSH, CLOSE, MKDIR, LINK, FSYNC, RENAME,
            UNLINK, TRUNCATE, RMDIR };
static const char *const kKinds[] = {
    "open", "write", "fwrite", "flush", "close", "mkdir", "link", "fsync",
    "rename", "unlink", "truncate", "rmdir"};

struct control {
  uint32_t armed;
  uint32_t action;
  uint32_t error;       /* errno of FAIL */
  uint32_t lasting;     /* FAIL from `at` on: a disk that stays full */
  uint32_t group;       /* a kill takes the whole process group */
  uint32_t power;
  uint32_t stream;      /* of `at`: 0, or 1 for event files */
  uint32_t at;
  uint32_t counters[2];
  uint32_t fired;
  uint32_t unused;
  char root[1024];      /* absolute, without links and a slash at its end */
  char log[1024];
  char shadow[1024];
};

static struct control *control;

#define REAL(type, name, ...) static type (*real_##name)(__VA_ARGS__)
REAL(int, open64, const char *, int, ...);
REAL(int, openat64, int, const char *, int, ...);
REAL(FILE *, fopen64, const char *, const char *);
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t,
     unsigned);
REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
REAL(int, fflush, FILE *);
REAL(int, fclose, FILE *);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, renameat, int, const char *, int, const char *);
REAL(int, renameat2, int, const char *, int, const char *, unsigned);
REAL(int, unlinkat, int, const char *, int);
REAL(int, linkat, int, const char *, int, const char *, int);
REAL(int, mkdirat, int, const char *, mode_t);
REAL(int, ftruncate64, int, off64_t);

__attribute__((constructor)) static void start(void) {
#define FIND(name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)
  FIND(open64); FIND(openat64); FIND(fopen64); FIND(write); FIND(pwrite64);
  FIND(writev); FIND(sendfile64); FIND(copy_file_range); FIND(fwrite);
  FIND(fflush); FIND(fclose); FIND(fsync); FIND(fdatasync); FIND(renameat);
  FIND(renameat2); FIND(unlinkat); FIND(linkat); FIND(mkdirat);
  FIND(ftruncate64);
  const char *path = getenv("FAULTS_CONTROL");
  int fd = path ? real_open64(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE,
                      MAP_SHARED, fd, 0);
  close(fd);
  if (mapped != MAP_FAILED) control = mapped;
}

/* Where a path lies. */

struct place {
  char path[PATH_MAX];  /* absolute */
  const char *name;     /* below the root; "." is the root */
};

static int below_root(struct place *place) {
  size_t length = strlen(control->root);
  if (strncmp(place->path, control->root, length)) return 0;
  if (place->path[length] == '\0') {
    place->name = ".";
    return 1;
  }
  place->name = place->path + length + 1;
  return place->path[length] == '/';
}

static int fd_path(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return 1;
}

static int is_on(void) {
  if (!real_write) start();  /* another library's constructor was sooner */
  return control && __atomic_load_n(&control->armed, __ATOMIC_SEQ_CST);
}

static int find_fd(int fd, struct place *place) {
  return is_on() && fd >= 0 && fd_path(fd, place->path) && below_root(place);
}

static int find_path(int folder, const char *path, struct place *place) {
  char joined[2 * PATH_MAX];
  if (!is_on() || !path || strlen(path) >= PATH_MAX) return 0;
  if (path[0] == '/') {
    strcpy(joined, path);
  } else {
    char base[PATH_MAX];
    if (folder == AT_FDCWD ? !getcwd(base, sizeof base)
                           : !fd_path(folder, base)) return 0;
    snprintf(joined, sizeof joined, "%s/%s", base, path);
  }
  char *out = place->path;
  for (const char *in = joined; *in; ++in) {
    if (in[0] == '/' && (in[1] == '/' || in[1] == '\0')) continue;
    if (in[0] == '/' && in[1] == '.' && (in[2] == '/' || in[2] == '\0')) {
      ++in;
      continue;
    }
    if (out - place->path >= PATH_MAX - 1) return 0;
    *out++ = *in;
  }
  *out = '\0';
  return below_root(place);
}

/* The log: stream, number, kind, then what the kind needs; tabs between. */

static void write_log(const char *format, ...) {
  static int fd = -1;
  static pid_t owner;
  char line[3 * PATH_MAX];
  va_list arguments;
  if (!control->log[0]) return;
  if (owner != getpid()) {
    owner = getpid();
    fd = real_open64(control->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                     0666);
  }
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (fd >= 0 && length > 0 && real_write(fd, line, length) < 0) return;
}

static unsigned long long inode(const char *path) {
  struct stat64 found;
  return lstat64(path, &found) ? 0 : (unsigned long long)found.st_ino;
}

static unsigned long long parent_inode(const char *path) {
  char folder[PATH_MAX];
  strcpy(folder, path);
  char *slash = strrchr(folder, '/');
  if (!slash) return 0;
  *slash = '\0';
  return inode(folder);
}

/* One operation: counted, and perhaps the one that is to go wrong. */

struct operation {
  enum kind kind;
  struct place place;
  uint32_t stream, number;
  enum action action;
};

static void die(void) {
  if (control->group) kill(0, SIGKILL);
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static void begin(struct operation *operation, enum kind kind) {
  operation->kind = kind;
  operation->stream = strstr(operation->place.name, "events.out") != NULL;
  operation->number = __atomic_fetch_add(
      &control->counters[operation->stream], 1, __ATOMIC_SEQ_CST);
  operation->action = NONE;
  write_log("%u\t%u\t%s\t%s\n", operation->stream, operation->number,
            kKinds[kind], operation->place.name);
  uint32_t action = control->action;
  if (control->lasting && control->fired) {
    /* What frees room goes on. */
    if (kind <= LINK) operation->action = action;
    return;
  }
  if (action == NONE || operation->stream != control->stream ||
      operation->number != control->at) return;
  operation->action = action;
  control->fired = 1;
  if (action == KILL_BEFORE) die();
}

static void end(struct operation *operation) {
  if (operation->action == KILL_AFTER) die();
}

static int fails(struct operation *operation) {
  if (operation->action != FAIL) return 0;
  errno = control->error;
  return 1;
}

static off64_t size_of(int fd) {
  struct stat64 found;
  return fstat64(fd, &found) ? 0 : found.st_size;
}

/* After a write: dies with half of it in the file. */
static void die_within(struct operation *operation, int fd, off64_t before) {
  if (operation->action != KILL_WITHIN) return;
  off64_t after = size_of(fd);
  if (after > before && real_ftruncate64(fd, before + (after - before) / 2)) {
    die();
  }
  die();
}

/* What a disk would keep. */

static void keep_new_file(struct operation *operation) {
  char kept[PATH_MAX];
  struct place *place = &operation->place;
  unsigned long long number = inode(place->path);
  snprintf(kept, sizeof kept, "%s/%llu", control->shadow, number);
  int saved = errno;
  real_linkat(AT_FDCWD, place->path, AT_FDCWD, kept, 0);
  errno = saved;
  write_log("create\t%llu\t%s\t%llu\n", parent_inode(place->path),
            strrchr(place->path, '/') + 1, number);
}

static void keep_synced(struct operation *operation, int fd) {
  struct stat64 found;
  char path[64], kept[PATH_MAX];
  static char block[1 << 16];
  if (fstat64(fd, &found)) return;
  if (S_ISDIR(found.st_mode)) {
    write_log("syncdir\t%llu\n", (unsigned long long)found.st_ino);
    return;
  }
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  snprintf(kept, sizeof kept, "%s/%llu.%u.%u", control->shadow,
           (unsigned long long)found.st_ino, operation->stream,
           operation->number);
  int in = real_open64(path, O_RDONLY | O_CLOEXEC);
  int out = real_open64(kept, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  for (ssize_t size; in >= 0 && out >= 0 &&
       (size = read(in, block, sizeof block)) > 0;) {
    if (real_write(out, block, size) != size) break;
  }
  if (in >= 0) close(in);
  if (out >= 0) close(out);
  write_log("sync\t%llu\t%u.%u\n", (unsigned long long)found.st_ino,
            operation->stream, operation->number);
}

/* Opening. */

static int open_at(int folder, const char *path, int flags, mode_t mode) {
  struct operation operation;
  if (!is_on() || !(flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) ||
      !find_path(folder, path, &operation.place)) {
    return real_openat64(folder, path, flags, mode);
  }
  begin(&operation, OPEN);
  if (fails(&operation)) return -1;
  int is_new = !inode(operation.place.path);
  int fd = real_openat64(folder, path, flags, mode);
  if (fd >= 0 && is_new && control->power) keep_new_file(&operation);
  end(&operation);
  return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
  if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {
    return va_arg(arguments, mode_t);
  }
  return 0;
}

#define OPEN_LIKE(name, parameters, folder)                                \
  int name parameters {                                                    \
    va_list arguments;                                                     \
    va_start(arguments, flags);                                            \
    mode_t mode = mode_of(flags, arguments);                               \
    va_end(arguments);                                                     \
    return open_at(folder, path, flags, mode);                             \
  }
OPEN_LIKE(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN_LIKE(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN_LIKE(openat, (int folder, const char *path, int flags, ...), folder)
OPEN_LIKE(openat64, (int folder, const char *path, int flags, ...), folder)

int __open_2(const char *path, int flags) {
  return open_at(AT_FDCWD, path, flags, 0);
}
int __open64_2(const char *path, int flags) {
  return open_at(AT_FDCWD, path, flags, 0);
}
int creat(const char *path, mode_t mode) {
  return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

FILE *fopen64(const char *path, const char *mode) {
  struct operation operation;
  if (!is_on() || (mode[0] == 'r' && !strchr(mode, '+')) ||
      !find_path(AT_FDCWD, path, &operation.place)) {
    return real_fopen64(path, mode);
  }
  begin(&operation, OPEN);
  if (fails(&operation)) return NULL;
  int is_new = !inode(operation.place.path);
  FILE *stream = real_fopen64(path, mode);
  if (stream && is_new && control->power) keep_new_file(&operation);
  end(&operation);
  return stream;
}
FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

/* Writing. */

#define WRITE_LIKE(fd, whole, part)                                        \
  struct operation operation;                                              \
  if (!find_fd(fd, &operation.place)) return whole;                        \
  begin(&operation, WRITE);                                                \
  if (fails(&operation)) return -1;                                        \
  off64_t before = size_of(fd);                                            \
  ssize_t result = operation.action == SHORT ? part : whole;               \
  die_within(&operation, fd, before);                                      \
  end(&operation);                                                         \
  return result

static size_t half(size_t size) { return size > 1 ? size / 2 : size; }

ssize_t write(int fd, const void *data, size_t size) {
  WRITE_LIKE(fd, real_write(fd, data, size), real_write(fd, data, half(size)));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  WRITE_LIKE(fd, real_pwrite64(fd, data, size, offset),
             real_pwrite64(fd, data, half(size), offset));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  return pwrite64(fd, data, size, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  WRITE_LIKE(fd, real_writev(fd, parts, count),
             real_write(fd, parts[0].iov_base, half(parts[0].iov_len)));
}
ssize_t sendfile64(int fd, int in, off64_t *offset, size_t size) {
  WRITE_LIKE(fd, real_sendfile64(fd, in, offset, size),
             real_sendfile64(fd, in, offset, 7));
}
ssize_t sendfile(int fd, int in, off_t *offset, size_t size) {
  return sendfile64(fd, in, offset, size);
}
ssize_t copy_file_range(int in, off64_t *in_offset, int fd, off64_t *offset,
                        size_t size, unsigned flags) {
  WRITE_LIKE(fd, real_copy_file_range(in, in_offset, fd, offset, size, flags),
             real_copy_file_range(in, in_offset, fd, offset, 7, flags));
}

/* A buffered stream hides short writes; what it shows is an error. */
size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
  struct operation operation;
  int fd = fileno(stream);
  if (!find_fd(fd, &operation.place)) {
    return real_fwrite(data, size, count, stream);
  }
  begin(&operation, FWRITE);
  if (operation.action == FAIL) {
    /* A disk that fills up takes the first part. */
    size_t result = real_fwrite(data, size, count / 2, stream);
    real_fflush(stream);
    errno = control->error;
    return result;
  }
  off64_t before = size_of(fd);
  size_t result = real_fwrite(data, size, count, stream);
  if (operation.action == KILL_WITHIN) real_fflush(stream);
  die_within(&operation, fd, before);
  end(&operation);
  return result;
}
size_t fwrite_unlocked(const void *data, size_t size, size_t count,
                       FILE *stream) {
  return fwrite(data, size, count, stream);
}

int fflush(FILE *stream) {
  struct operation operation;
  int fd = stream && __fwritable(stream) ? fileno(stream) : -1;
  if (!find_fd(fd, &operation.place)) return real_fflush(stream);
  begin(&operation, FLUSH);
  if (fails(&operation)) return EOF;
  off64_t before = size_of(fd);
  int result = real_fflush(stream);
  die_within(&operation, fd, before);
  end(&operation);
  return result;
}

int fclose(FILE *stream) {
  struct operation operation;
  int fd = stream && __fwritable(stream) ? fileno(stream) : -1;
  if (!find_fd(fd, &operation.place)) return real_fclose(stream);
  begin(&operation, CLOSE);
  off64_t before = size_of(fd);
  if (operation.action == KILL_WITHIN) {
    real_fflush(stream);
    die_within(&operation, fd, before);
  }
  if (operation.action == FAIL) {
    /* The buffer is lost, the stream is closed. */
    int copy = dup(fd);
    real_fclose(stream);
    if (copy >= 0) {
      if (size_of(copy) > before && real_ftruncate64(copy, before)) errno = 0;
      close(copy);
    }
    errno = control->error;
    return EOF;
  }
  int result = real_fclose(stream);
  end(&operation);
  return result;
}

static int sync_like(int fd, int (*real)(int)) {
  struct operation operation;
  if (!find_fd(fd, &operation.place)) return real(fd);
  begin(&operation, FSYNC);
  if (fails(&operation)) return -1;
  int result = real(fd);
  if (!result && control->power) keep_synced(&operation, fd);
  end(&operation);
  return result;
}
int fsync(int fd) { return sync_like(fd, real_fsync); }
int fdatasync(int fd) { return sync_like(fd, real_fdatasync); }

static int truncate_fd(int fd, off64_t size) {
  struct operation operation;
  if (!find_fd(fd, &operation.place)) return real_ftruncate64(fd, size);
  begin(&operation, TRUNCATE);
  if (fails(&operation)) return -1;
  int result = real_ftruncate64(fd, size);
  end(&operation);
  return result;
}
int ftruncate64(int fd, off64_t size) { return truncate_fd(fd, size); }
int ftruncate(int fd, off_t size) { return truncate_fd(fd, size); }

/* Names. */

static int rename_at(int folder, const char *path, int to_folder,
                     const char *to, unsigned flags) {
  struct operation operation;
  struct place source;
  if (!find_path(to_folder, to, &operation.place) ||
      !find_path(folder, path, &source)) {
    return flags ? real_renameat2(folder, path, to_folder, to, flags)
                 : real_renameat(folder, path, to_folder, to);
  }
  begin(&operation, RENAME);
  if (fails(&operation)) return -1;
  unsigned long long number = inode(source.path);
  int result = flags ? real_renameat2(folder, path, to_folder, to, flags)
                     : real_renameat(folder, path, to_folder, to);
  if (!result && control->power) {
    write_log("move\t%llu\t%s\t%llu\t%llu\t%s\n", parent_inode(source.path),
              strrchr(source.path, '/') + 1, number,
              parent_inode(operation.place.path),
              strrchr(operation.place.path, '/') + 1);
  }
  end(&operation);
  return result;
}
int rename(const char *path, const char *to) {
  return rename_at(AT_FDCWD, path, AT_FDCWD, to, 0);
}
int renameat(int folder, const char *path, int to_folder, const char *to) {
  return rename_at(folder, path, to_folder, to, 0);
}
int renameat2(int folder, const char *path, int to_folder, const char *to,
              unsigned flags) {
  return rename_at(folder, path, to_folder, to, flags);
}

static int unlink_at(int folder, const char *path, int flags) {
  struct operation operation;
  if (!find_path(folder, path, &operation.place) ||
      !inode(operation.place.path)) {
    return real_unlinkat(folder, path, flags);
  }
  begin(&operation, flags & AT_REMOVEDIR ? RMDIR : UNLINK);
  if (fails(&operation)) return -1;
  unsigned long long parent = parent_inode(operation.place.path);
  int result = real_unlinkat(folder, path, flags);
  if (!result && control->power) {
    write_log("remove\t%llu\t%s\n", parent,
              strrchr(operation.place.path, '/') + 1);
  }
  end(&operation);
  return result;
}
int unlink(const char *path) { return unlink_at(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) {
  return unlink_at(folder, path, flags);
}
int rmdir(const char *path) { return unlink_at(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  struct stat64 found;
  if (lstat64(path, &found)) return -1;
  return S_ISDIR(found.st_mode) ? rmdir(path) : unlink(path);
}

static int link_at(int folder, const char *path, int to_folder, const char *to,
                   int flags) {
  struct operation operation;
  if (!find_path(to_folder, to, &operation.place)) {
    return real_linkat(folder, path, to_folder, to, flags);
  }
  begin(&operation, LINK);
  if (fails(&operation)) return -1;
  int result = real_linkat(folder, path, to_folder, to, flags);
  if (!result && control->power) keep_new_file(&operation);
  end(&operation);
  return result;
}
int link(const char *path, const char *to) {
  return link_at(AT_FDCWD, path, AT_FDCWD, to, 0);
}
int linkat(int folder, const char *path, int to_folder, const char *to,
           int flags) {
  return link_at(folder, path, to_folder, to, flags);
}

static int mkdir_at(int folder, const char *path, mode_t mode) {
  struct operation operation;
  if (!find_path(folder, path, &operation.place) ||
      inode(operation.place.path)) {
    return real_mkdirat(folder, path, mode);
  }
  begin(&operation, MKDIR);
  if (fails(&operation)) return -1;
  int result = real_mkdirat(folder, path, mode);
  if (!result && control->power) {
    write_log("create\t%llu\t%s\t%llu\n", parent_inode(operation.place.path),
              strrchr(operation.place.path, '/') + 1,
              inode(operation.place.path));
  }
  end(&operation);
  return result;
}
int mkdir(const char *path, mode_t mode) {
  return mkdir_at(AT_FDCWD, path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
  return mkdir_at(folder, path, mode);
}
