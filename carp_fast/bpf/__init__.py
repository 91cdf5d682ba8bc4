"""eBPF without a compiler or library: instructions, maps, programs in the kernel.

Holds the assembler (`assembly`), maps that are shared through memory (`maps`), loading, running and
attaching (`programs`), and the system call with the kernel's reasons for refusing it (`system`).
Must not know frames, or the purpose of a program. Start reading in `assembly`.
"""
