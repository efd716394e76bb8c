"""The event loop is let in soon after it wakes, and alone."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from aiproxy.scheduling import SLICE_NS, _ATTRIBUTES, run_promptly

def slice_ns():
    found = ctypes.create_string_buffer(_ATTRIBUTES.size)
    assert ctypes.CDLL(None).syscall({number}, 0, found, _ATTRIBUTES.size, 0) == 0
    return _ATTRIBUTES.unpack(found.raw)[5]

before, set, others = slice_ns(), run_promptly(), []
thread = threading.Thread(target=lambda: others.append(slice_ns()))
thread.start()
thread.join()
print(set, slice_ns() == SLICE_NS, others == [before], before > SLICE_NS)
"""
SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_it_asks_for_short_slices_for_its_own_thread_alone():
    number = SCHED_GETATTR.get(platform.machine())
    version = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
    if number is None or version < (6, 12):
        pytest.skip("slices are nobody's choice before Linux 6.12")
    program = [sys.executable, "-c", PROGRAM.format(number=number)]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout.split() == ["True"] * 4
