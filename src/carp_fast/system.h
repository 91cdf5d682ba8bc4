/* The system headers that the modules with sockets and clocks share, and a clock in ns. */
#ifndef CARP_FAST_SYSTEM_H
#define CARP_FAST_SYSTEM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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

/* Arms a CLOCK_MONOTONIC timer for at_ns, 0 disarms. It uses the system call: libfaketime, which
the  * tests of wall-clock steps use, moves absolute timers of every clock. */
static inline void set_timer(int fd, int64_t at_ns)
{
    struct itimerspec timer = { { 0, 0 }, { at_ns / 1000000000, at_ns % 1000000000 } };
    syscall(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

#endif
