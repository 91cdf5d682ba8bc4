"""The commands of carp-fast: what people type and what they see.

Holds the options of each command, its tables, lines and exit codes; `terminal` is what all of them
share. Must not know how anything is done: a command imports what does it when it is called, so that
--help and completion stay quick. Nothing imports from here but `carp_fast.__main__`.
Start reading in `main`.
"""
