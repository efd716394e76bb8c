"""What a worker asks for itself: to be let in soon after it wakes, and to hold no memory that nobody uses."""

import platform
import subprocess
import sys

import pytest

SLICES = """
import ctypes, threading
from aiproxy.process import SLICE_NS, _ATTRIBUTES, run_promptly

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
    program = [sys.executable, "-c", SLICES.format(number=number)]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout.split() == ["True"] * 4


HASHES = """
import os, threading
from argon2 import PasswordHasher
from aiproxy.process import give_back_memory

def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def hash():
    PasswordHasher(time_cost=1, memory_cost=MEBIBYTES * 1024, parallelism=1).hash("a password")

assert give_back_memory()
MEBIBYTES = 16
hash()
before = held()
for _ in range(4):
    thread = threading.Thread(target=hash)
    thread.start()
    thread.join()
print(held() - before < MEBIBYTES << 19)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a call of glibc")
def test_it_holds_none_of_the_memory_that_passwords_were_hashed_in():
    done = subprocess.run([sys.executable, "-c", HASHES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
