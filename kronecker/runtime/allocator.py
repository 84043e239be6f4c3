"""The C library's allocator, told to keep what is freed.

A step's buffers are hundreds of megabytes on a CPU.  glibc returns each to the kernel and asks for it anew in the next
step, page by page and zeroed: a fifth of a small model's processor time.  This changes no number.
"""

import ctypes
import platform

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # what XLA's errors say that are for want of a device's memory
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # of mallopt, from glibc's malloc.h


def keep_freed() -> bool:
    """Lets this process reuse freed memory, whatever its size; returns whether its C library can (glibc).

    One arena for all threads, as those of another map each large block anew.  Call it before threads start: an arena
    that exists stays.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1  # to trim
    return all([mallopt(ARENA_MAX, 1), mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, never)])
