/* Preloaded: netlink that fails as it may under memory pressure, or where a container forbids it.
 *
 * Each variable of the environment says how often: NO_CHANGES (sendto of address changes fails),
 * NO_ANSWERS (their answers are lost), NO_LOOKS (a dump cannot be asked for), CUT_LOOKS (the end of
 * a dump is lost), STALE_LOOKS (addresses changed while it was made), NO_SETLINK (not permitted),
 * BUSY (a change waits for three seconds, as while another program holds the kernel's lock);
 * and of frames: INTERRUPTED (sendmmsg is interrupted by a signal). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

static int left(const char *name)
{
    char *value = getenv(name), text[16];
    int count = value ? atoi(value) : 0;
    if (count > 0) {
        int at = sizeof text - 1, rest = count - 1;
        for (text[at] = 0; at > 0 && (rest || at == sizeof text - 1); rest /= 10)
            text[--at] = '0' + rest % 10;
        setenv(name, text + at, 1);
    }
    return count > 0;
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to,
               socklen_t size)
{
    static ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    const struct nlmsghdr *header = data;
    if (!real)
        real = dlsym(RTLD_NEXT, "sendto");
    if (!to && length >= sizeof *header && header->nlmsg_len <= length) {
        int kind = header->nlmsg_type;
        if ((kind == RTM_NEWADDR || kind == RTM_DELADDR) && left("NO_CHANGES"))
            return errno = ENOBUFS, -1;
        if ((kind == RTM_NEWADDR || kind == RTM_DELADDR) && left("BUSY")) {
            struct timespec wait = { 3, 0 };
            nanosleep(&wait, NULL);
        }
        if (kind == RTM_GETADDR && left("NO_LOOKS"))
            return errno = ENOBUFS, -1;
        if (kind == RTM_SETLINK && left("NO_SETLINK"))
            return errno = EPERM, -1;
    }
    return real(fd, data, length, flags, to, size);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
             struct timespec *timeout)
{
    static int (*real)(int, struct mmsghdr *, unsigned int, int, struct timespec *);
    int got;
    if (!real)
        real = dlsym(RTLD_NEXT, "recvmmsg");
    got = real(fd, messages, count, flags, timeout);
    if (got > 0 && messages[0].msg_len >= sizeof(struct nlmsghdr)) {
        const struct nlmsghdr *header = messages[0].msg_hdr.msg_iov->iov_base;
        if (header->nlmsg_type == NLMSG_ERROR && left("NO_ANSWERS"))
            return errno = ENOBUFS, -1;
    }
    return got;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    static int (*real)(int, struct mmsghdr *, unsigned int, int);
    if (!real)
        real = dlsym(RTLD_NEXT, "sendmmsg");
    if (left("INTERRUPTED"))
        return errno = EINTR, -1;
    return real(fd, messages, count, flags);
}

ssize_t recv(int fd, void *data, size_t length, int flags)
{
    static ssize_t (*real)(int, void *, size_t, int);
    struct nlmsghdr *header = data;
    ssize_t got;
    if (!real)
        real = dlsym(RTLD_NEXT, "recv");
    got = real(fd, data, length, flags);
    if (got < (ssize_t)sizeof *header)
        return got;
    if (header->nlmsg_type == NLMSG_DONE && left("CUT_LOOKS"))
        return errno = EAGAIN, -1;
    if (header->nlmsg_type == RTM_NEWADDR && left("STALE_LOOKS"))
        header->nlmsg_flags |= NLM_F_DUMP_INTR;
    return got;
}
