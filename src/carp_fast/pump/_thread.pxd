"""The pump's thread, as its Python class uses it."""

from carp_fast.pump._environment cimport PumpState

cdef extern from "system.h" nogil:
    ctypedef unsigned long pthread_t

cdef object system_error(int error)
cdef int add_to_epoll(int epoll_fd, int fd) except -1
cdef void watch_budget() noexcept nogil
cdef void pump_forget(PumpState* pump) noexcept nogil
cdef void wait_and_run(PumpState* pump, int timeout) noexcept nogil
cdef void* pump_thread(void* argument) noexcept nogil
cdef int start_thread(pthread_t* thread, void* (*start)(void*) noexcept nogil,
                      void* argument) noexcept nogil
