"""Owns `make contract`: Schemathesis asks a running service all that its OpenAPI says, rightly and wrongly.

The control plane is asked by somebody who is signed in, the data plane with a proxy key and the demo's provider. Not
asked is what would end the asker's own sign-in. Whatever it finds is a mistake of the service or of its description.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.service import Person, mock_provider, running

SEED = "1"
EXAMPLES = "8"  # made up, for each operation
# Nobody is throttled, and no account is locked.
RATES = dict.fromkeys(
    [f"AIPROXY_{name}_RATE" for name in ("SIGNUP", "LOGIN", "PASSWORD", "MAIL", "MAIL_RECIPIENT", "PROXY_KEYS")],
    "100000/minute",
)
ENDS_THE_SIGN_IN = ("signOut", "endSignIn")
LEFT_OUT = [
    # What a description cannot say is refused all the same: a password that is too common, a date that is over.
    "positive_data_acceptance",
    # It sends a made-up key beside ours, and two different keys are refused before the method is looked at.
    "unsupported_method",
]
SECONDS = "40"  # for making requests up, for each plane


def check(person: Person, title: str, paths: str, secret: str, *options: str) -> int:
    print(f"--- {title}", flush=True)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{person.service.url}/openapi.json"]
    command += ["--include-path-regex", paths, "--header", f"Authorization: Bearer {secret}"]
    command += [
        "--seed",
        SEED,
        "--max-examples",
        EXAMPLES,
        "--generation-deterministic",
        "--exclude-checks",
        ",".join(LEFT_OUT),
    ]
    # Not "stateful": it takes words out of the list of endpoints for ids.
    command += ["--phases", "examples,coverage,fuzzing", "--max-time", SECONDS]
    command += ["--request-timeout", "20", "--continue-on-failure", "--no-color", *options]
    with tempfile.TemporaryDirectory() as directory:  # it leaves its notes where it runs
        return subprocess.run(command, cwd=directory, check=False).returncode


def main() -> int:
    with tempfile.TemporaryDirectory() as directory, mock_provider() as base_url:
        settings = {"AIPROXY_OPENAI_BASE_URL": base_url, "AIPROXY_UNVERIFIED_MAY_PROXY": "true"}
        settings |= {"EMAIL_URL": "dummymail://", "AIPROXY_LOGIN_FAILURES": "1000000", **RATES}
        with running(Path(directory), **settings) as service:
            first, second = service.sign_up(), service.sign_up("other@example.com")
            service.set_plan(rpm=None, tpm=None, max_parallel=None)
            ends = [option for name in ENDS_THE_SIGN_IN for option in ("--exclude-operation-id", name)]
            control = check(first, "control plane", "^/(?!v1/)", first.token, *ends)
            data = check(second, "data plane", "^/v1/", second.key)
            return control or data


if __name__ == "__main__":
    sys.exit(main())
