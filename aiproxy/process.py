"""Owns what a worker asks of the kernel and of the C library for itself: when its event loop is let in beside threads
that compute, and when memory goes back.
"""

import ctypes
import os
import platform
import struct
import sys

SLICE_NS = 100_000  # the shortest there is
LARGE_BLOCK = 1 << 20  # bytes
_M_MMAP_THRESHOLD = -3  # malloc.h
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # Python has no function for it
_RESET_ON_FORK = 1
# sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period
_ATTRIBUTES = struct.Struct("IIQiIQQQ")


def run_promptly() -> bool:
    """The calling thread gets no more of a core than before, but sooner after it wakes: a thread that computes has it
    for some 3 ms otherwise, ours or another's. What it begins from now on, threads too, is as always.

    Since Linux 6.12 (https://docs.kernel.org/scheduler/sched-eevdf.html, "sched_setattr"); False where that is not.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, SLICE_NS, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, wanted, 0) == 0)


def give_back_memory() -> bool:
    """Blocks of LARGE_BLOCK and more go back to the kernel as soon as they are free. Otherwise glibc keeps what Argon2
    worked in for a moment, tens of megabytes, in the arena of each thread that has hashed a password: it raises its
    own threshold once such a block was freed (mallopt(3), M_MMAP_THRESHOLD). False where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK))
