"""Programs that the daemon starts, without a fork and watched by the loop; what processes of
carp-fast send one another.

Must not know what a program or a message is for, nor anything of virtual hosts. Start reading at
`launching`, or at `channel`.
"""
