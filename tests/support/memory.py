"""The memory of another process, as root reads it, and what a passphrase leaves in one."""

from __future__ import annotations

from pathlib import Path

KEY_LENGTH = 20
CHUNK = 1 << 24


def traces_of(passphrase: bytes) -> dict[str, bytes]:
    """A passphrase, and the key as HMAC puts it into its first blocks, in either byte order."""
    key = passphrase.ljust(KEY_LENGTH, b"\0")
    found = {"passphrase": passphrase}
    for name, pad in (("inner", 0x36), ("outer", 0x5C)):
        block = bytes(byte ^ pad for byte in key)
        words = [block[at : at + 4][::-1] for at in range(0, KEY_LENGTH, 4)]
        found[name] = block
        found[f"{name}, words"] = b"".join(words)
        # SHA-NI: four words a vector, the first one highest.
        found[f"{name}, vector"] = b"".join(reversed(words[:4]))
    return found


def found_in(pid: int, needles: dict[str, bytes]) -> dict[str, list[str]]:
    """Names of the needles that are in a process's memory, with the mappings that have them."""
    longest = max(map(len, needles.values()))
    found: dict[str, list[str]] = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, mode, *_ = line.split()
            begin, end = (int(part, 16) for part in area.split("-"))
            if mode[0] != "r" or "[v" in line:  # vvar, vsyscall: the kernel's
                continue
            kept = b""
            for at in range(begin, end, CHUNK):
                try:
                    memory.seek(at)
                    piece = memory.read(min(CHUNK, end - at))
                except OSError:  # unmapped meanwhile
                    break
                for name, needle in needles.items():
                    if needle in kept + piece:
                        found.setdefault(name, []).append(line)
                kept = piece[-longest:]
    return found
