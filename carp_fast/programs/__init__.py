"""Programs that the daemon starts: without a fork, watched by the loop.

Must not know what a program is for, nor anything of virtual hosts. Start reading at `launching`.
"""
