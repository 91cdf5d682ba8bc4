/* The system headers that the modules with sockets and clocks share, and short calls of the system:
 * a clock in ns, a timer, what the kernel tells of an interface without waiting. */
#ifndef CARP_FAST_SYSTEM_H
#define CARP_FAST_SYSTEM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Leaves the pages of this memory out of core files. Where the kernel cannot, nothing is lost: there
 * are no core files unless somebody wants them. */
static inline void leave_out_of_cores(const void* memory, size_t length)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t start = (size_t)memory & ~(page - 1);
    madvise((void*)start, (size_t)memory + length - start, MADV_DONTDUMP);
}

/* Arms a CLOCK_MONOTONIC timer for at_ns, 0 disarms. It uses the system call: libfaketime, which
the  * tests of wall-clock steps use, moves absolute timers of every clock. */
static inline void set_timer(int fd, int64_t at_ns)
{
    struct itimerspec timer = { { 0, 0 }, { at_ns / 1000000000, at_ns % 1000000000 } };
    syscall(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

/* Frames that an interface has sent, as its driver counts them, or minus an errno. directory_fd:
 * /sys/class/net; control_fd: any socket. Netlink would have to wait for the kernel's lock of all
 * configuration. */
static inline int64_t frames_transmitted(int control_fd, int directory_fd, int ifindex)
{
    struct ifreq request = { .ifr_ifindex = ifindex };
    char path[IFNAMSIZ + 32], text[32];
    ssize_t length;
    int fd;
    if (ioctl(control_fd, SIOCGIFNAME, &request) < 0)
        return -errno;
    snprintf(path, sizeof(path), "%.*s/statistics/tx_packets", IFNAMSIZ, request.ifr_name);
    fd = openat(directory_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    length = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (length <= 0)
        return -EIO;
    text[length] = 0;
    return (int64_t)(strtoull(text, NULL, 10) & INT64_MAX);
}

static inline int interface_is_up(int control_fd, int ifindex)
{
    struct ifreq request = { .ifr_ifindex = ifindex };
    return ioctl(control_fd, SIOCGIFNAME, &request) == 0
        && ioctl(control_fd, SIOCGIFFLAGS, &request) == 0 && request.ifr_flags & IFF_UP;
}

#endif
