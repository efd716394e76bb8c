"""Owns how the kernel shares a core between the event loop and the threads that run beside it."""

import ctypes
import os
import platform
import struct
import sys

SLICE_NS = 100_000  # the shortest there is
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
