"""The run: everything that is measured, side by side, on two cores.

    python -m benchmarks.run [--quick] [--only NAME …] [--publish]

Results go to benchmarks/results/; --publish puts them into docs/ as well. `make bench`, `QUICK=1 make bench`.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import measure, report, wrk
from benchmarks.client import Endpoint
from benchmarks.machine import CORES, LOAD, ROOT, awake, facts, keep_on, load_average, on_core
from benchmarks.measure import FULL, QUICK, Plan
from benchmarks.processes import DidNotStart, Running
from benchmarks.service import Aiproxy, Backends, embedded, start_provider, with_everything
from benchmarks.targets import Direct, LiteLLM, LiteLLMDatabase, Nginx, Portkey, Target, Unavailable, last_line

RESULTS = ROOT / "benchmarks" / "results"
COMPARED = {"nginx", "aiproxy", "litellm", "litellm_db", "portkey"}
REDIS_AWAY = re.compile(r"Redis at \S+ is away")  # as proxy/limits/guarded.py says it
Result = dict[str, Any]


@contextlib.contextmanager
def embedded_service() -> Iterator[Endpoint]:
    """For the load test of the specification: this service, in front of the benchmark's provider."""
    directory = Path(tempfile.mkdtemp(prefix="aiproxy-bench-"))
    provider, port, _, _ = start_provider(directory)
    target = embedded(directory, port)
    try:
        provider.wait_for(f"http://127.0.0.1:{port}/")
        target.start()
        yield target.endpoint
    finally:
        target.stop()
        provider.stop()
        shutil.rmtree(directory, ignore_errors=True)


def one(target: Target, plan: Plan, more: Callable[[Target, Result], None] | None = None) -> Result:
    """What there is to say of a target; of one that cannot be measured, why."""
    print(f"  {target.title} …", flush=True)
    result: Result = {"title": target.title, "load_average": load_average()}
    try:
        result["start_seconds"] = target.start()
        result |= measure.measure(target, plan)
        if more is not None:
            more(target, result)
    except Unavailable as reason:
        result["unavailable"] = str(reason)
    except DidNotStart as reason:
        result["unavailable"] = f"did not start: {last_line(str(reason))}"
    except Exception as error:
        traceback.print_exc()
        result["unavailable"] = f"failed: {last_line(str(error))}"
    finally:
        target.stop()
    result["version"] = target.version
    print(f"    {report.brief(result)}", flush=True)
    return result


def thorough(plan: Plan) -> Callable[[Target, Result], None]:
    """What is measured of this service alone."""

    def more(target: Target, result: Result) -> None:
        assert isinstance(target, Aiproxy)
        rows, cpu = target.rows(), target.shipper_cpu_seconds()
        result |= measure.shipping(target, plan)
        result |= measure.soak(target, plan, result["requests_per_second"])
        result |= measure.mixed(target, plan)
        result["answered"] = sum(target.metric(r"aiproxy_exchanges_total\{.*\}").values())
        result["shipped_late_per_second"] = target.shipped(patience=180)
        result["rows"] = target.rows()
        result["shipper_cpu_us_per_row"] = (target.shipper_cpu_seconds() - cpu) / (result["rows"] - rows) * 1e6
        result["redis_given_up"] = len(REDIS_AWAY.findall(target.log.read_text()))
        result["respawn_seconds"] = target.respawn_seconds()
        result |= measure.starts(target, plan, result["start_seconds"])
        target.stop()
        target.start()
        result["worker_idle_mb"] = target.worker_mb()

    return more


def over_tls(target: Aiproxy, plan: Plan, direct: Endpoint) -> Result:
    print(f"  {target.title} …", flush=True)
    result: Result = {"title": target.title, "load_average": load_average()}
    try:
        target.start()
        result["direct"] = measure.lone(direct, plan)
        with target.alone():
            result |= measure.lone(target.endpoint, plan) | measure.plain(measure.Load(target, plan))
        result |= measure.soak(target, plan, result["requests_per_second"])
    finally:
        target.stop()
    print(f"    {report.brief(result)}", flush=True)
    return result


def scaling(directory: Path, provider: Running, port: int, backends: Backends, plan: Plan) -> Result:
    """Two workers on two cores beside one on one; the load comes from two others, as from another machine."""
    print("  two workers beside one …", flush=True)
    inside, outside = CORES[:2], CORES[2:4]
    targets = [with_everything(directory, port, backends, name=f"aiproxy_workers_{n}", workers=n) for n in (1, 2)]
    others = [*provider.pids(), *(server.pid for server in backends.started)]
    keep_on(outside, others)
    try:
        with contextlib.ExitStack() as stack:
            loads = {}
            for target in targets:
                target.start()
                stack.enter_context(target.alone())
                keep_on(inside[: target.workers], target.running.pids())
                connections = measure.CONNECTIONS * target.workers
                loads[str(target.workers)] = measure.Load(target, plan, connections=connections)
            stack.enter_context(on_core(*outside))
            return measure.in_turns(loads)
    finally:
        for target in targets:
            target.stop()
        keep_on([LOAD], others)


def compare(targets: dict[str, Target], results: dict[str, Result], plan: Plan) -> None:
    """All up at the same time, the one that is asked alone busy: the ratios are of these rates."""
    print("  in turns …", flush=True)
    loads: dict[str, measure.Load] = {}
    try:
        for name, target in targets.items():
            if "unavailable" not in results[name]:
                target.start()
                loads[name] = measure.Load(target, plan, slow=results[name]["p50_1_us"] > measure.SLOW_US)
        with contextlib.ExitStack() as alone:
            for load in loads.values():
                alone.enter_context(load.target.alone())
            for name, rates in measure.in_turns(loads).items():
                results[name]["turns"] = rates
    finally:
        for target in targets.values():
            target.stop()


def everything(directory: Path, plan: Plan, only: set[str]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    compared: dict[str, Target] = {}
    provider, port, tls_port, root = start_provider(directory, tls=True)
    backends = Backends(directory)
    try:
        provider.wait_for(f"http://127.0.0.1:{port}/")
        backends.begin()

        def add(name: str, make: Callable[[], Target], more: Callable[[Target, Result], None] | None = None) -> None:
            if not only or name in only:
                target = make()
                results[name] = one(target, plan, more)
                if name in COMPARED:
                    compared[name] = target

        add("direct", lambda: Direct(directory, port))
        add("nginx", lambda: Nginx(directory, port))
        add("aiproxy", lambda: with_everything(directory, port, backends), thorough(plan))
        if not only or "aiproxy_tls" in only:
            url = f"https://localhost:{tls_port}/v1"
            tls = with_everything(
                directory, port, backends, name="aiproxy_tls", title="aiproxy, everything on, TLS to the provider",
                AIPROXY_OPENAI_BASE_URL=url, AIPROXY_UPSTREAM_CA_FILE=str(root),
            )  # fmt: skip
            secure = Endpoint(tls_port, headers=(("authorization", f"Bearer {'k' * 40}"),), trusted=str(root))
            results["aiproxy_tls"] = over_tls(tls, plan, secure)
        add("aiproxy_embedded", lambda: embedded(directory, port))
        add("litellm", lambda: LiteLLM(directory, port))
        add("litellm_db", lambda: LiteLLMDatabase(directory, port, backends.database))
        add("portkey", lambda: Portkey(directory, port))
        compare(compared, results, plan)
        if len(CORES) >= 4 and (not only or "aiproxy_workers" in only):
            results["aiproxy_workers"] = scaling(directory, provider, port, backends, plan)
        if "direct" in results:
            results["direct_again"] = one(Direct(directory, port), plan)
    finally:
        provider.stop()
        backends.stop()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser.add_argument("--quick", action="store_true", default=quick, help="about two minutes; also QUICK=1")
    parser.add_argument("--only", nargs="+", default=[], help="these targets alone")
    parser.add_argument("--note", default="", help="what a reader has to know of this run")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.* too")
    options = parser.parse_args()
    if len(CORES) < 2:
        sys.exit("The benchmark needs two cores: one for the proxy, one for everything else.")
    machine = {**facts(), "load_generator": wrk.name(), "quick": options.quick, "note": options.note}
    print(f"{machine['cpu']}, {machine['cores']} cores, load average {machine['load_average_before']}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # so that what was started is stopped too
    directory = Path(tempfile.mkdtemp(prefix="aiproxy-bench-"))
    directory.chmod(0o711)
    try:
        with on_core(LOAD), awake() as machine["awake"]:
            results = everything(directory, QUICK if options.quick else FULL, set(options.only))
    except BaseException:
        traceback.print_exc()
        sys.exit(f"The run failed; what its processes said is in {directory}.")
    shutil.rmtree(directory, ignore_errors=True)
    found = {"machine": machine, "targets": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps(found, indent=2) + "\n")
    print("\n" + report.tables(found))
    if options.publish:
        report.publish(found)
    if any("unavailable" in one for name, one in results.items() if name.startswith("aiproxy")):
        sys.exit("This service itself could not be measured.")


if __name__ == "__main__":
    main()
