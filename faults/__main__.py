"""Finds what is lost under faults, or shows that nothing is.

python -m faults --seconds 60 --seed 7      the same requests and the same faults again
python -m faults --minutes 30               a random seed, which is printed

Exit status 0: every promise was kept; 1: the violations are printed, with the seed to replay them by.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from faults.report import show, write
from faults.run import Run

RESULT = Path("var/faults.json")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__.partition("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60.0, help="of load and faults (default: %(default)g)")
    length.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--seed", type=int, help="what is drawn at random (default: random, and printed)")
    parser.add_argument("--only", action="append", metavar="FAULT", help="this fault alone; may be repeated")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the result goes (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the logs also when all is well")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    seconds = given.minutes * 60 if given.minutes else given.seconds
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}, {seconds:g} s of load and faults", flush=True)
    directory = tempfile.mkdtemp(prefix="aiproxy-faults-")
    result = asyncio.run(Run(Path(directory), seed=seed, seconds=seconds, only=given.only).perform())
    show(result)
    write(result, given.json)
    if result.violations:
        only = "".join(f" --only {kind}" for kind in given.only or ())
        print(f"\nReplay: python -m faults --seconds {seconds:g} --seed {seed}{only}    (logs: {directory})")
        return 1
    if not given.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    os.nice(5)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # that the other side is gone is what we came for
    sys.exit(main())
