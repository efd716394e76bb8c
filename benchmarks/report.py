"""From figures to what a person reads: the table side by side, the ratios, and each target with what was measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chart import chart
from benchmarks.machine import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- results: begin (make bench writes what is between these lines) -->", "<!-- results: end -->"
NONE = "-"
Result = dict[str, Any]

COLUMNS: list[tuple[str, Callable[[Result, Result], str]]] = [
    ("requests/s", lambda one, _: number(one, "requests_per_second")),
    ("CPU µs a request", lambda one, _: number(one, "cpu_us_per_request", 0)),
    ("added p50 / p99, 1 connection", lambda one, direct: added(one, direct, "p50_1_us", "p99_1_us")),
    ("added p50 / p99, 32 connections", lambda one, direct: added(one, direct, "p50_32_us", "p99_32_us")),
    ("streams/s", lambda one, _: number(one, "streams_per_second")),
    ("in one piece", lambda one, _: number(one, "bursts_per_second")),
    ("CPU µs a chunk, paced / unpaced / in one piece", lambda one, _: chunk_cost(one)),
    ("first chunk later by (p50)", lambda one, direct: added(one, direct, "first_chunk_p50_us")),
    ("memory idle / after load", lambda one, _: memory(one)),
    ("start", lambda one, _: seconds(one)),
]


def number(one: Result, name: str, digits: int = 0) -> str:
    return f"{one[name]:,.{digits}f}" if one.get(name) else NONE


def milliseconds(us: float) -> str:
    return f"{us / 1e3:.2f} ms" if abs(us) < 10_000 else f"{us / 1e3:,.0f} ms"


def added(one: Result, direct: Result, *names: str) -> str:
    if one is direct:
        return " / ".join(f"({milliseconds(one[name])})" for name in names if name in one) or NONE
    if any(name not in one or name not in direct for name in names):
        return NONE
    return " / ".join(milliseconds(one[name] - direct[name]) for name in names)


def chunk_cost(one: Result) -> str:
    if not one.get("stream_cpu_us_per_chunk"):
        return NONE
    kinds = ("", "_unpaced", "_at_once")
    return " / ".join(f"{one[f'stream_cpu_us_per_chunk{kind}']:.1f}" for kind in kinds)


def memory(one: Result) -> str:
    if not one.get("memory_idle_mb"):
        return NONE
    return f"{one['memory_idle_mb']:,.0f} / {one.get('memory_after_load_mb', 0):,.0f} MB"


def seconds(one: Result) -> str:
    return f"{one['start_seconds']:.2f} s" if one.get("start_seconds") else NONE


def brief(one: Result) -> str:
    if "unavailable" in one:
        return str(one["unavailable"])
    parts = [f"{number(one, 'requests_per_second')} requests/s", f"core {one.get('core_busy', 0):.0%} busy"]
    parts += [f"{number(one, 'cpu_us_per_request')} µs", f"{number(one, 'streams_per_second')} streams/s"]
    return ", ".join(parts) + (f", {one['errors']:.0f} ERRORS" if one.get("errors") else "")


def ratio(over: Result, under: Result, name: str, of: str = "") -> float | None:
    of = of or name
    return float(over[name] / under[of]) if name in over and under.get(of) else None


def ratio_in_turns(over: Result, under: Result) -> float | None:
    """Of requests a second: the median turn's, so that both sides are of the same minute."""
    if over.get("turns") and under.get("turns"):
        return median_turn(over["turns"], under["turns"])
    return ratio(over, under, "requests_per_second")


def median_turn(over: list[float], under: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(over, under, strict=True))


def checks(targets: dict[str, Result]) -> list[tuple[str, str, str, bool | None]]:
    """What is promised, the promise, what was measured, and whether it holds (None: not measured)."""
    us, direct, tls, workers = (
        targets.get(name, {}) for name in ("aiproxy", "direct", "aiproxy_tls", "aiproxy_workers")
    )
    found: list[tuple[str, str, str, bool | None]] = []

    def check(what: str, promise: str, value: float | None, holds: Callable[[float], bool], form: str) -> None:
        found.append(
            (what, promise, NONE if value is None else form.format(value), None if value is None else holds(value))
        )

    def least(what: str, value: float | None, bound: float, form: str) -> None:
        check(what, "≥ " + form.format(bound), value, lambda measured: measured >= bound, form)

    def most(what: str, value: float | None, bound: float, form: str) -> None:
        check(what, "≤ " + form.format(bound), value, lambda measured: measured <= bound, form)

    least("plain requests/s, Redis asked on every one", us.get("requests_per_second"), 10_000, "{:,.0f}")
    for peer, bound in (("litellm", 120), ("portkey", 10), ("nginx", 0.25)):
        least(f"… x {peer}", ratio_in_turns(us, targets.get(peer, {})), bound, "{:,.2f}")
    least("streams/s of 64 chunks x nginx", ratio(us, targets.get("nginx", {}), "streams_per_second"), 0.9, "{:.2f}")
    most("CPU a request", us.get("cpu_us_per_request"), 90, "{:.0f} µs")
    for title, one, base in (("", us, direct), (", TLS to the provider", tls, tls.get("direct", {}))):
        for name, bound in (("p50", 400), ("p99", 2000)):
            most(f"added latency, 1 connection{title}, {name}", less(one, base, f"{name}_1_us"), bound, "{:,.0f} µs")
    most("CPU a streamed chunk, one by one", us.get("stream_cpu_us_per_chunk"), 20, "{:.1f} µs")
    most("first chunk later by, p50", less(us, direct, "first_chunk_p50_us"), 500, "{:,.0f} µs")
    most("any chunk later by, p99 (no coalescing)", less(us, direct, "chunk_under_way_p99_us"), 2000, "{:,.0f} µs")
    for title, one in (("", us), (", TLS to the provider", tls)):
        soak = f"{one.get('soak_requests', 0):,.0f} requests, {one.get('soak_leavers', 0):,.0f} clients that leave"
        most(f"memory of a worker after {soak}{title}", one.get("worker_after_leavers_mb"), 150, "{:.0f} MB")
        most("… its change since a tenth of the soak", drift(one), 0.05, "{:.1%}")
    most("exec to the first 200 on /health", us.get("start_seconds"), 1.5, "{:.2f} s")
    most("a killed worker is replaced", us.get("respawn_seconds"), 0.2, "{:.3f} s")
    most("event loop: timers more than 50 ms late, mixed load", us.get("mixed_lag_over_50_ms"), 0, "{:.0f}")
    late = ratio(us, us, "exporting_lag_over_5_ms", "exporting_lag_samples")
    most("… more than 5 ms late, while exports and sign-ins run", late, 0.01, "{:.1%}")
    scaled = median_turn(workers["2"], workers["1"]) if workers else None
    least("2 workers on 2 cores x one, the load from 2 others", scaled, 1.8, "{:.2f}")
    return found


def less(one: Result, base: Result, name: str) -> float | None:
    return float(one[name] - base[name]) if name in one and name in base else None


def drift(one: Result) -> float | None:
    if "worker_after_leavers_mb" not in one:
        return None
    early = one["worker_after_tenth_mb"]
    return max(abs(one[name] / early - 1) for name in ("worker_after_soak_mb", "worker_after_leavers_mb"))


def tables(found: dict[str, Any]) -> str:
    targets, machine = found["targets"], found["machine"]
    return "\n\n".join([heading(machine), side_by_side(targets), ratios(targets), promises(targets), notes(targets)])


def heading(machine: Result) -> str:
    kind = "quick run" if machine["quick"] else "full run"
    changed = ", with changes" if machine["modified"] else ""
    return (
        f"{machine['date'][:16].replace('T', ' ')} UTC, {kind}, commit {machine['commit']}{changed}. {machine['cpu']},"
        f" {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, load by"
        f" {machine['load_generator']}; load average before: {machine['load_average_before']}."
        + (" The cores were kept awake." if machine.get("awake") else " The cores slept when idle.")
        + (f" **{machine['note']}**" if machine.get("note") else "")
    )


def side_by_side(targets: dict[str, Result]) -> str:
    direct = targets.get("direct", {})
    lines = ["| | " + " | ".join(title for title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, one in targets.items():
        if name in ("direct_again", "aiproxy_tls", "aiproxy_workers"):
            continue
        title = f"{one['title']} {one['version']}".strip()
        if "unavailable" in one:
            lines.append(f"| {title} | {one['unavailable']} " + "| " * (len(COLUMNS) - 1) + "|")
            continue
        lines.append(f"| {title} | " + " | ".join(cell(one, direct) for _, cell in COLUMNS) + " |")
    return "\n".join(lines)


def ratios(targets: dict[str, Result]) -> str:
    us = targets.get("aiproxy", {})
    lines = [
        "| aiproxy, everything on, against | requests/s | requests per CPU second | streams/s |",
        "|---|---|---|---|",
    ]
    for name, one in targets.items():
        if not name.startswith(("aiproxy", "direct")) and "unavailable" not in one:
            shares = (
                ratio_in_turns(us, one), ratio(one, us, "cpu_us_per_request"),
                ratio(us, one, "streams_per_second"),
            )  # fmt: skip
            cells = " | ".join(NONE if share is None else f"{share:,.2f} x" for share in shares)
            lines.append(f"| {one['title']} | {cells} |")
    return "\n".join(lines)


def promises(targets: dict[str, Result]) -> str:
    verdict = {True: "pass", False: "**FAIL**", None: "not measured"}
    lines = ["| promised of aiproxy, everything on, one core | target | measured | |", "|---|---|---|---|"]
    lines += [f"| {what} | {promise} | {value} | {verdict[holds]} |" for what, promise, value, holds in checks(targets)]
    return "\n".join(lines)


def notes(targets: dict[str, Result]) -> str:
    us, lines = targets.get("aiproxy", {}), []
    if "rows" in us:
        complete = "all of them have" if us["rows"] >= us["answered"] else "**NOT all have**"
        lines.append(f"- {us['answered']:,.0f} exchanges ended, {us['rows']:,.0f} rows in the log: {complete} a row.")
        late = us["shipped_late_per_second"]
        late_text = f"; what was left after the load went at {late:,.0f} rows/s" if late else ""
        lines.append(
            f"- The shipper took {us['shipper_cpu_us_per_row']:.0f} µs of CPU a row, on the other core{late_text}."
        )
        if less(us, targets.get("direct", {}), "first_chunk_rare_p50_us"):
            rare = [milliseconds(targets[name]["first_chunk_rare_p50_us"]) for name in ("direct", "aiproxy")]
            lines.append(
                "- One request in a seventh of a second, and a processor with cold caches: its first chunk"
                f" comes after {rare[0]} without a proxy, after {rare[1]} with this one."
            )
        if us.get("shipping_requests_per_second"):
            latency = " / ".join(milliseconds(us[f"shipping_{name}_1_us"]) for name in ("p50", "p99"))
            lines.append(
                f"- While the shipper works on the other core: {us['shipping_requests_per_second']:,.0f} requests/s,"
                f" {us['shipping_cpu_us_per_request']:.0f} µs of CPU each; p50 / p99 at 1 connection {latency} in all."
            )
        if us.get("redis_given_up"):
            lines.append(f"- Redis was too late {us['redis_given_up']} times: for a moment limits were kept in memory.")
    measured = [one for name, one in targets.items() if one.get("long_requests_per_second") and name != "direct_again"]
    if measured:
        told = "; ".join(map(long_prompts, measured))
        lines.append(f"- Prompts of 100 KB with an agent's tools, requests/s: {told}.")
    for name, one in targets.items():
        if one.get("core_busy") and one["core_busy"] < 0.9 and name != "direct":
            lines.append(f"- {one['title']}: its core was {one['core_busy']:.0%} busy: the load's core was the limit.")
        if one.get("errors"):
            lines.append(f"- {one['title']}: {one['errors']:.0f} errors in {one['sent']:,.0f} plain requests.")
    turns = {name: one["turns"] for name, one in targets.items() if one.get("turns")}
    if len(turns) > 1:
        told = "; ".join(
            f"{targets[name]['title']} {', '.join(f'{rate:,.0f}' for rate in turns[name])}" for name in turns
        )
        lines.append(f"- In turns, requests/s, of which the ratios are: {told}.")
    if workers := targets.get("aiproxy_workers"):
        told = "; ".join(f"{n} {', '.join(f'{rate:,.0f}' for rate in workers[n])}" for n in ("1", "2"))
        lines.append(f"- By the number of workers and cores, requests/s in turns: {told}.")
    again = ratio(targets.get("direct_again", {}), targets.get("direct", {}), "requests_per_second")
    if again:
        lines.append(f"- The provider alone, measured again at the end: {again:.2f} x its first rate.")
    return "\n".join(lines)


def long_prompts(one: Result) -> str:
    cost = f" ({one['long_cpu_us_per_request']:,.0f} µs)" if one["long_cpu_us_per_request"] else ""
    errors = f", {one['long_errors']:.0f} errors" if one["long_errors"] else ""
    return f"{one['title']} {one['long_requests_per_second']:,.0f}{cost}{errors}"


def publish(found: dict[str, Any]) -> None:
    (DOCS / "performance.json").write_text(json.dumps(found, indent=2) + "\n")
    (DOCS / "performance.svg").write_text(chart(found["targets"]))
    page = PAGE.read_text()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}")


def main() -> None:
    """Publishes the latest run: python -m benchmarks.report"""
    publish(json.loads(Path(ROOT, "benchmarks", "results", "latest.json").read_text()))


if __name__ == "__main__":
    main()
