"""Sends batches of frames as clones: one run of a BPF program for up to 64 of them.

Program and memory are made in Python (net/clones.py). What is not sent here, for whatever reason,
is left to the packet socket, whose errnos are those of the frames: a frame that the program could
not send, all frames of a run that failed, and every frame of an interface that has not proved that
it sends clones. The proof is its transmit counter, around its first frames; a counter that is
late is looked at again while the packet socket sends.

Knows no sockets but to ask for an interface's name and flags.
"""

from libc.errno cimport ENETDOWN, ENOBUFS, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from carp_fast.engine._core cimport CLONES_GIVEN_UP, Core, Report, report_begin, report_end
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport FRAME_ROOM
from carp_fast.pump._turn cimport Outgoing

cdef extern from "system.h" nogil:
    int64_t clock_ns(int clock) noexcept
    int64_t frames_transmitted(int control_fd, int directory_fd, int ifindex) noexcept
    bint interface_is_up(int control_fd, int ifindex) noexcept
    int CLOCK_MONOTONIC
    long SYS_bpf
    long syscall(long number, ...)

cdef enum:
    BPF_PROG_TEST_RUN = 10
    NET_XMIT_CN = 2             # the queue is congested, or the interface is down
    SHAPES_MAX = 4
    NOT_RUN = 0x7fffffff        # of a slot's result
    TRIAL_FRAMES = 16           # of an interface, at most
    FAILURES_MAX = 3            # runs in a row, after which no more are tried
    REFUSED_MAX = 64            # frames of an interface in a row, likewise
    # When a counter is looked at that had not counted the trial's frames immediately: some drivers
    # count when a frame has left, others read their hardware every second or two.
    FIRST_CHECK_MS = 10
    NEXT_CHECK_MS = 250
    OWED_MS = 2000
    LAST_CHECK_MS = 4000

cdef int64_t MS = 1000000       # ns

cdef enum Way:                  # of a frame that is in no shape, or was in a run
    WAY_PACKET = 253            # by the packet socket
    WAY_REFUSED = 254           # likewise, since the program could not send it
    WAY_SENT = 255              # it was sent

cdef struct RunAttributes:      # union bpf_attr for BPF_PROG_TEST_RUN
    uint32_t prog_fd
    uint32_t retval
    uint32_t data_size_in
    uint32_t data_size_out
    uint64_t data_in
    uint64_t data_out
    uint32_t repeat
    uint32_t duration
    uint32_t ctx_size_in
    uint32_t ctx_size_out
    uint64_t ctx_in
    uint64_t ctx_out
    uint32_t flags
    uint32_t cpu
    uint32_t batch_size
    uint32_t padding

assert <int>FRAME_ROOM <= <int>SLOT_FRAME_ROOM
assert sizeof(SlotOfRun) == 128 and sizeof(Run) == 64 + FRAMES_A_RUN * sizeof(SlotOfRun)
assert sizeof(RunAttributes) == 80


cdef void clones_open(Clones* clones, int program_fd, Run* run, int directory_fd,
                      int control_fd) noexcept nogil:
    """Send clones from now on, after a trial of each interface. The caller keeps all of these."""
    clones.program_fd, clones.run = program_fd, run
    clones.directory_fd, clones.control_fd = directory_fd, control_fd
    clones.on = True


cdef void clones_forget(Clones* clones, uint32_t interface) noexcept nogil:
    """An interface was replaced by another one: it has a trial of its own."""
    cdef Trial* trial = &clones.trials[interface]
    if trial.state == TRIAL_WAITING:
        clones.trials_waiting -= 1
    memset(trial, 0, sizeof(Trial))


# ----------------------------------------------------------------------------------------- trials

cdef void give_up(Clones* clones, Core* core, uint32_t interface, GivenUp why,
                  int error) noexcept nogil:
    """Send no more clones, to an interface or at all (NOBODY), and report why."""
    cdef Report* report
    cdef Trial* trial
    if interface == NOBODY:
        clones.on = False
    else:
        trial = &clones.trials[interface]
        if trial.state == TRIAL_WAITING:
            clones.trials_waiting -= 1
        trial.state = TRIAL_FAILED
    report = report_begin(core, CLONES_GIVEN_UP, NOBODY, clock_ns(CLOCK_MONOTONIC))
    if report != NULL:
        report.detail, report.value, report.reason = interface, <uint64_t>error, <uint8_t>why
        report_end(core)


cdef int64_t transmitted(const Clones* clones, const Core* core, uint32_t interface) noexcept nogil:
    """Frames that the interface has sent, as its driver counts, or minus an errno."""
    return frames_transmitted(clones.control_fd, clones.directory_fd,
                              core.interfaces[interface].ifindex)


cdef void begin_trial(Clones* clones, Core* core, uint32_t interface) noexcept nogil:
    cdef Trial* trial = &clones.trials[interface]
    cdef int64_t counted = transmitted(clones, core, interface)
    if counted < 0:
        give_up(clones, core, interface, GIVEN_UP_UNREAD, <int>-counted)
        return
    trial.state, trial.counted, trial.frames = TRIAL_BEGUN, <uint64_t>counted, 0
    trial.later = trial.owed = 0
    clones.trials_begun += 1


cdef uint64_t counted_since(const Clones* clones, const Core* core,
                            uint32_t interface) noexcept nogil:
    """Frames that the interface has sent since its trial began; 0 if it cannot be read any more."""
    cdef int64_t counted = transmitted(clones, core, interface)
    if counted < 0 or <uint64_t>counted < clones.trials[interface].counted:
        return 0
    return <uint64_t>counted - clones.trials[interface].counted


cdef void end_trial(Clones* clones, Core* core, uint32_t interface) noexcept nogil:
    """Judge the first frames of an interface, just after they were sent."""
    cdef Trial* trial = &clones.trials[interface]
    if trial.frames == 0:
        trial.state = TRIAL_DUE
    elif counted_since(clones, core, interface) >= trial.frames:
        trial.state = TRIAL_PASSED
    else:
        trial.state, trial.begun_ns = TRIAL_WAITING, clock_ns(CLOCK_MONOTONIC)
        trial.check_ns = trial.begun_ns + FIRST_CHECK_MS * MS
        clones.trials_waiting += 1


cdef void check_trial(Clones* clones, Core* core, uint32_t interface,
                      int64_t now_ns) noexcept nogil:
    """Look again at a counter that was late. It must have counted the clones, and what the packet
    socket has sent since; at the end, what was sent until two seconds before.
    """
    cdef Trial* trial = &clones.trials[interface]
    cdef uint64_t counted
    if now_ns < trial.check_ns:
        return
    counted = counted_since(clones, core, interface)
    trial.check_ns = now_ns + NEXT_CHECK_MS * MS
    if counted >= trial.frames + trial.later or (
            trial.owed and now_ns - trial.begun_ns >= LAST_CHECK_MS * MS and counted >= trial.owed):
        trial.state = TRIAL_PASSED
        clones.trials_waiting -= 1
    elif trial.owed == 0 and now_ns - trial.begun_ns >= OWED_MS * MS:
        trial.owed = trial.frames + trial.later
        trial.check_ns = now_ns + (LAST_CHECK_MS - OWED_MS) * MS
    elif trial.owed:
        give_up(clones, core, interface, GIVEN_UP_UNCOUNTED, 0)


cdef bint takes_clones(Clones* clones, Core* core, uint32_t interface, int64_t now_ns,
                       bint begins) noexcept nogil:
    """Whether the next frame to an interface is to be a clone. `now_ns`: 0 if no trial waits;
    `begins`: its trial may begin.
    """
    cdef Trial* trial = &clones.trials[interface]
    if trial.state == TRIAL_PASSED:
        return True
    if trial.state == TRIAL_WAITING:
        check_trial(clones, core, interface, now_ns)
        trial.later += trial.state == TRIAL_WAITING
        return trial.state == TRIAL_PASSED
    if trial.state == TRIAL_DUE and begins:
        begin_trial(clones, core, interface)
    if trial.state != TRIAL_BEGUN or trial.frames == TRIAL_FRAMES:
        return False
    trial.frames += 1
    return True


# ----------------------------------------------------------------------------------------- sending

cdef inline uint32_t interface_of(const Core* core, const Outgoing* frame) noexcept nogil:
    return core.hosts[frame.slot].interface


cdef uint32_t shape_of(Shape* shapes, uint32_t* shape_count, const Outgoing* frame) noexcept nogil:
    """The shape of a frame, maybe a new one; SHAPES_MAX: there are too many."""
    cdef uint32_t k = 0
    while k < shape_count[0] and not (
            shapes[k].length == frame.length and shapes[k].ethertype[0] == frame.bytes[12]
            and shapes[k].ethertype[1] == frame.bytes[13]):
        k += 1
    if k == shape_count[0] and k < SHAPES_MAX:
        shapes[k].length, shapes[k].count = frame.length, 0
        shapes[k].ethertype[0], shapes[k].ethertype[1] = frame.bytes[12], frame.bytes[13]
        shape_count[0] += 1
    return k


cdef uint32_t sort_frames(Clones* clones, Core* core, Outgoing* frames, uint32_t count,
                          Shape* shapes) noexcept nogil:
    """Set the way of each frame of a batch; how many shapes there are."""
    cdef uint32_t i, k, shape_count = 0
    cdef Outgoing* frame
    cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC) if clones.trials_waiting else 0
    cdef bint begins = count >= CLONES_MIN
    for i in range(count):
        frame = &frames[i]
        frame.error = NOT_SENT
        clones.ways[i] = WAY_PACKET
        if not frame.unicast and takes_clones(clones, core, interface_of(core, frame), now_ns,
                                              begins):
            k = shape_of(shapes, &shape_count, frame)
            if k < SHAPES_MAX:
                shapes[k].count += 1
                clones.ways[i] = <uint8_t>k
    return shape_count


cdef uint32_t sort_rest(Clones* clones, const Core* core, const Outgoing* frames, uint32_t count,
                        Shape* shapes) noexcept nogil:
    """The same for the frames that a trial in this batch did not take, if it has passed."""
    cdef uint32_t i, k, shape_count = 0
    for i in range(count):
        if (clones.ways[i] == WAY_PACKET and not frames[i].unicast
                and clones.trials[interface_of(core, &frames[i])].state == TRIAL_PASSED):
            k = shape_of(shapes, &shape_count, &frames[i])
            if k < SHAPES_MAX:
                shapes[k].count += 1
                clones.ways[i] = <uint8_t>k
    return shape_count


cdef int run_program(Clones* clones, uint32_t count, uint32_t length) noexcept nogil:
    """Run the program on the frames in the slots: 0, or an errno."""
    cdef RunAttributes attributes
    memset(&attributes, 0, sizeof(attributes))
    clones.run.count = count
    attributes.prog_fd = <uint32_t>clones.program_fd
    attributes.data_size_in = length
    attributes.data_in = <uint64_t>clones.run.slots[0].frame
    attributes.repeat = 1
    if syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attributes, sizeof(attributes)) < 0:
        return errno
    return 0


cdef void take_results(Clones* clones, Outgoing* frames, uint32_t count) noexcept nogil:
    """Set the outcome of each frame of a run."""
    cdef uint32_t k
    cdef int32_t result
    cdef Outgoing* frame
    cdef int32_t known_ifindex = 0
    cdef bint up = True
    for k in range(count):
        frame, result = &frames[clones.owners[k]], clones.run.slots[k].result
        if result == 0:
            frame.error = 0
            clones.ways[clones.owners[k]] = WAY_SENT
            clones.frames += 1
        elif result == NET_XMIT_CN:                 # as the packet socket judges it
            if frame.ifindex != known_ifindex:
                known_ifindex = frame.ifindex
                up = interface_is_up(clones.control_fd, known_ifindex)
            frame.error = 0 if up else ENETDOWN
            clones.frames += up
        elif result != NOT_RUN:
            clones.ways[clones.owners[k]] = WAY_REFUSED
            clones.refused += 1
            clones.last_refusal = -result if result < 0 else ENOBUFS


cdef void send_slots(Clones* clones, Core* core, Outgoing* frames, uint32_t count,
                     uint32_t length) noexcept nogil:
    """Send the frames in the first slots, and take their results."""
    cdef int error = run_program(clones, count, length)
    if error == 0:
        clones.failures = 0
    else:
        clones.failed += 1
        clones.failures += 1
        if clones.failures == FAILURES_MAX:
            give_up(clones, core, NOBODY, GIVEN_UP_RUN, error)
    take_results(clones, frames, count)


cdef void send_shape(Clones* clones, Core* core, Outgoing* frames, uint32_t count, uint8_t way,
                     uint32_t length) noexcept nogil:
    """Send the frames of one shape, by runs."""
    cdef uint32_t i, filled = 0
    cdef SlotOfRun* slot
    for i in range(count):
        if clones.ways[i] != way:
            continue
        slot = &clones.run.slots[filled]
        slot.ifindex, slot.result = frames[i].ifindex, NOT_RUN
        memcpy(slot.frame, frames[i].bytes, length)
        clones.owners[filled] = i
        filled += 1
        if filled == FRAMES_A_RUN:
            send_slots(clones, core, frames, filled, length)
            filled = 0
            if not clones.on:
                return
    if filled:
        send_slots(clones, core, frames, filled, length)


cdef void send_shapes(Clones* clones, Core* core, Outgoing* frames, uint32_t count,
                      const Shape* shapes, uint32_t shape_count, uint32_t least) noexcept nogil:
    """Send the frames of every shape that has at least so many."""
    cdef uint32_t k
    for k in range(shape_count):
        if clones.on and shapes[k].count >= least:
            send_shape(clones, core, frames, count, <uint8_t>k, shapes[k].length)


cdef void end_trials(Clones* clones, Core* core, const Outgoing* frames,
                     uint32_t count) noexcept nogil:
    """Judge the trials of this batch; of the frames chosen for them those count that were sent."""
    cdef uint32_t i
    cdef Trial* trial
    for i in range(count):
        trial = &clones.trials[interface_of(core, &frames[i])]
        if trial.state == TRIAL_BEGUN:
            trial.frames = 0
    for i in range(count):
        if clones.ways[i] == WAY_SENT:
            clones.trials[interface_of(core, &frames[i])].frames += 1
    for i in range(count):
        if clones.trials[interface_of(core, &frames[i])].state == TRIAL_BEGUN:
            end_trial(clones, core, interface_of(core, &frames[i]))
    clones.trials_begun = 0


cdef bint clones_send(Clones* clones, Core* core, Outgoing* frames, uint32_t count) noexcept nogil:
    """Send what can be sent as clones; the error of the others is NOT_SENT. False: nothing was
    tried, and no error was set.
    """
    cdef Shape shapes[SHAPES_MAX]
    cdef uint32_t shape_count
    if not clones.on or count < CLONES_MIN and not clones.trials_waiting:
        return False
    clones.refused = 0
    shape_count = sort_frames(clones, core, frames, count, shapes)
    # The frames of a trial may be few of each shape.
    send_shapes(clones, core, frames, count, shapes, shape_count,
                1 if clones.trials_begun else CLONES_MIN)
    if clones.trials_begun:
        end_trials(clones, core, frames, count)
        shape_count = sort_rest(clones, core, frames, count, shapes)
        send_shapes(clones, core, frames, count, shapes, shape_count, CLONES_MIN)
    return True


cdef void clones_note_rest(Clones* clones, Core* core, const Outgoing* frames,
                           uint32_t count) noexcept nogil:
    """Note what became of the frames that were refused here, after the packet socket had them.

    An interface that refuses clones, but sends what a packet socket gives it, gets no more.
    """
    cdef uint32_t i, number
    for i in range(count):
        number = interface_of(core, &frames[i])
        if clones.ways[i] == WAY_SENT:
            clones.trials[number].refused = 0
        elif clones.ways[i] == WAY_REFUSED and frames[i].error == 0:
            clones.trials[number].refused += 1
            if clones.trials[number].refused == REFUSED_MAX:
                give_up(clones, core, number, GIVEN_UP_REFUSED, clones.last_refusal)
    clones.refused = 0
