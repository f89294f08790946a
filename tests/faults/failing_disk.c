/* A disk that does not take what it is given: fsync fails while the file named by FAILING_DISK exists. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(void) {
    const char *name = getenv("FAILING_DISK");
    return name != NULL && access(name, F_OK) == 0;
}

int fsync(int descriptor) {
    if (fails()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
    if (fails()) { errno = EIO; return -1; }
    return (int)syscall(SYS_fdatasync, descriptor);
}
