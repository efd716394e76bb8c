"""wrk, where it is installed; else our own load generator with the same report."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks import load
from benchmarks.client import Endpoint
from benchmarks.load import Report

WRK = shutil.which("wrk")
SCRIPT = """
wrk.method = "POST"
wrk.body = %s
wrk.headers = %s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%%d,"us":%%d,"errors":%%d,"p50":%%d,"p95":%%d,"p99":%%d,"slowest":%%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
"""


def name() -> str:
    if WRK is None:
        return "benchmarks/load.py"
    printed = subprocess.run([WRK, "-v"], capture_output=True, text=True).stdout
    return " ".join(printed.split()[:2])


def run(endpoint: Endpoint, body: bytes, *, connections: int, seconds: float) -> Report:
    if WRK is None:
        return load.for_seconds(endpoint, body, connections, seconds)
    headers = {"content-type": "application/json", "user-agent": "benchmark", **dict(endpoint.headers)}
    table = "{" + ",".join(f"[{json.dumps(key)}]={json.dumps(value)}" for key, value in headers.items()) + "}"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % (json.dumps(body.decode()), table))
        script.flush()
        url = f"http://127.0.0.1:{endpoint.port}{endpoint.path}"
        duration = f"{max(1, round(seconds))}s"
        command = [WRK, "-t1", f"-c{connections}", f"-d{duration}", "--timeout", "30s", "-s", script.name, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Report(
        found["requests"], found["us"] / 1e6, found["errors"], found["p50"], found["p95"], found["p99"],
        found["slowest"], Path(WRK).name,
    )  # fmt: skip
