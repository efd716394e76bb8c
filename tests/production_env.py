"""Runs a command with production settings and secrets made up for it: `python -m tests.production_env COMMAND…`."""

import os
import subprocess
import sys
import tempfile

from tests.environment import fresh_secrets


def main(command: list[str]) -> int:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="aiproxy-lint-") as directory:
        production = {
            **kept,
            **fresh_secrets(),
            "AIPROXY_HTTPS": "true",
            "ALLOWED_HOSTS": "example.org",
            "AIPROXY_DATA_DIR": directory,
            "AIPROXY_ENV_FILE": os.path.join(directory, "no.env"),
        }
        return subprocess.run(command, env=production).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
