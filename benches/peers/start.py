"""Runs a program and measures it from outside: start.py [--cold FILE]... [--discard] REPETITIONS PROGRAM ARGUMENTS...

Prints one JSON object per repetition: milliseconds from the start of the process to the first byte on its standard
output (null if there is none) and to its end, its peak resident memory, and what it printed. `--cold` drops a file
from the page cache before each repetition, and touches more free memory than it needs: a virtual machine may have given it back
to its host, which would then be what is measured. `--discard` sends what the program prints to /dev/null: a pipe would be
what is measured of a program that prints megabytes.
"""

import json
import mmap
import os
import sys
import time


def drop(path):
    descriptor = os.open(path, os.O_RDONLY)
    # Pages that are not written back yet would stay.
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def touch(size):
    """Uses and frees memory, in large pages where the system has them."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, size, mmap.PAGESIZE):
        memory[at] = 1
    memory.close()


def run(command):
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    actions = [
        (os.POSIX_SPAWN_DUP2, null, 0),
        (os.POSIX_SPAWN_DUP2, null if discard else write, 1),
        (os.POSIX_SPAWN_CLOSE, read),
    ]
    began = time.perf_counter()
    process = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    # The child's own copy closes when it starts another program, so the end of the pipe is the end of the process.
    os.close(write)
    first, output = None, b""
    while chunk := os.read(read, 65536):
        first = first or time.perf_counter() - began
        output += chunk
    _, status, usage = os.wait4(process, 0)
    end = time.perf_counter() - began
    os.close(read)
    os.close(null)
    if status != 0:
        sys.exit(f"{' '.join(command)}: wait status {status}")
    return {
        "first_ms": first and 1e3 * first,
        "end_ms": 1e3 * end,
        "peak_rss_bytes": 1024 * usage.ru_maxrss,
        "output": output.decode(errors="replace"),
    }


arguments, cold = sys.argv[1:], []
while arguments[0] == "--cold":
    cold.append(arguments[1])
    del arguments[:2]
discard = arguments[0] == "--discard"
del arguments[:discard]
for _ in range(int(arguments[0])):
    for path in cold:
        drop(path)
    if cold:
        touch(max(1 << 30, 2 * sum(os.path.getsize(path) for path in cold)))
    print(json.dumps(run(arguments[1:])), flush=True)
