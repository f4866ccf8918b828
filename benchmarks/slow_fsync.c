/* fsync and fdatasync that take SLOW_FSYNC_MS longer, as on a slower disk: preloaded into PostgreSQL (Linux). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static void wait_longer(void)
{
    const char *text = getenv("SLOW_FSYNC_MS");
    double ms = text ? strtod(text, NULL) : 0;
    struct timespec left = {(time_t)(ms / 1000), (long)((ms - (double)(long)(ms / 1000) * 1000) * 1e6)};
    int was = errno;
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
    errno = was;
}

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int done = real(fd);
    wait_longer();
    return done;
}

int fdatasync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int done = real(fd);
    wait_longer();
    return done;
}
