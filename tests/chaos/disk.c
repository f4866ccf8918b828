/* A disk that takes no more: while the file CHAOS_DISK exists, writing to files whose path holds its text fails.
 *
 * The file's first word is the error (28 is ENOSPC, 30 is EROFS), its second the part of the path, such as "/pg_wal/".
 * Preloaded into PostgreSQL (Linux). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* 0, or the error with which writing to `fd` fails just now. */
static int refusal(int fd)
{
    static const char *flag;
    if (!flag && !(flag = getenv("CHAOS_DISK")))
        return 0;
    int was = errno;
    char text[128], name[64], path[4096];
    int file = (int)syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) {
        errno = was;
        return 0;
    }
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    errno = was;
    if (size <= 0)
        return 0;
    text[size] = 0;
    char part[64];
    int error;
    if (sscanf(text, "%d %63s", &error, part) != 2)
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    errno = was;
    if (length <= 0)
        return 0;
    path[length] = 0;
    return path[0] == '/' && strstr(path, part) ? error : 0;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define REFUSE(fd)                  \
    do {                            \
        int error = refusal(fd);    \
        if (error) {                \
            errno = error;          \
            return -1;              \
        }                           \
    } while (0)

ssize_t write(int fd, const void *from, size_t size)
{
    REAL(write);
    if (fd > 2)
        REFUSE(fd);
    return real(fd, from, size);
}

ssize_t pwrite(int fd, const void *from, size_t size, off_t at)
{
    REAL(pwrite);
    REFUSE(fd);
    return real(fd, from, size, at);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at)
{
    REAL(pwrite64);
    REFUSE(fd);
    return real(fd, from, size, at);
}

ssize_t writev(int fd, const struct iovec *from, int count)
{
    REAL(writev);
    REFUSE(fd);
    return real(fd, from, count);
}

ssize_t pwritev(int fd, const struct iovec *from, int count, off_t at)
{
    REAL(pwritev);
    REFUSE(fd);
    return real(fd, from, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *from, int count, off64_t at)
{
    REAL(pwritev64);
    REFUSE(fd);
    return real(fd, from, count, at);
}

int fallocate(int fd, int mode, off_t at, off_t size)
{
    REAL(fallocate);
    REFUSE(fd);
    return real(fd, mode, at, size);
}

int posix_fallocate(int fd, off_t at, off_t size)
{
    REAL(posix_fallocate);
    int error = refusal(fd);
    return error ? error : real(fd, at, size);
}

/* The same under the names that programs built for large files use. */

ssize_t pwritev2(int fd, const struct iovec *from, int count, off_t at, int flags)
{
    REAL(pwritev2);
    REFUSE(fd);
    return real(fd, from, count, at, flags);
}

ssize_t pwritev64v2(int fd, const struct iovec *from, int count, off64_t at, int flags)
{
    REAL(pwritev64v2);
    REFUSE(fd);
    return real(fd, from, count, at, flags);
}

int fallocate64(int fd, int mode, off64_t at, off64_t size)
{
    REAL(fallocate64);
    REFUSE(fd);
    return real(fd, mode, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    REAL(posix_fallocate64);
    int error = refusal(fd);
    return error ? error : real(fd, at, size);
}
