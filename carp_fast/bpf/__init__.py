"""eBPF without a compiler or library: programs from named instructions, maps, the bpf system call.

Must not know frames, interfaces' owners or the purpose of a program. Start reading in `assembly`.
"""
