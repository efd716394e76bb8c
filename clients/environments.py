"""Owns the clients' environments: one for each Python client, one for those of Node, outside of this checkout.

An environment is named for what is in it: another pin makes another one. What cannot be installed is `Missing`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE / "scripts"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "aiproxy-clients")
INSTALLATION = 600  # seconds; a limit, not an expectation


class Missing(Exception):
    """A program or a package that is not to be had here."""


def python(*packages: str) -> Path:
    """The interpreter of an environment with these packages."""
    home = _home(packages[0].partition("=")[0], "\n".join(packages))
    interpreter = home / "bin" / "python"
    if not (home / "ready").exists():
        uv = str(Path(sys.executable).with_name("uv"))
        _install(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home))
        _install(uv, "pip", "install", "--quiet", "--python", str(interpreter), *packages)
        (home / "ready").touch()
    return interpreter


def node() -> Path:
    """A directory with the packages of package-lock.json, and the scripts beside them: where they look for packages."""
    home = _home("node", (HERE / "package-lock.json").read_text())
    if not (home / "ready").exists():
        home.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, home)
        _install("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home))
        (home / "ready").touch()
    shutil.copytree(SCRIPTS, home / "scripts", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def _home(name: str, content: str) -> Path:
    return CACHE / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _install(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALLATION, stdin=subprocess.DEVNULL)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise Missing(f"{command[0].rpartition('/')[2]}: {said[0].strip() if said else done.returncode}")
