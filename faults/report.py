"""Owns how a run's result is shown, and written as JSON."""

import json
from collections import Counter
from pathlib import Path

from faults.run import Result

SHOWN = 25  # violations on the screen; the file has all


def summary(result: Result) -> dict[str, object]:
    ledger = result.ledger
    respawns = sorted(ledger.respawns)
    return {
        "seed": result.seed,
        "seconds": result.seconds,
        "took_s": round(result.took, 1),
        "requests": result.requests,
        "seen": dict(sorted(result.verdict.counts.items())),
        "rows": result.rows,
        "faults": dict(sorted(Counter(fault.kind for fault in ledger.faults).items())),
        "damaged_records": len(ledger.damaged),
        "respawn_s": {"median": round(respawns[len(respawns) // 2], 2), "worst": round(respawns[-1], 2)}
        if respawns
        else {},
        **result.measured,
        "skipped": ledger.skipped,
        "violations": result.violations,
    }


def show(result: Result) -> None:
    found = summary(result)
    for name in ("violations", "skipped"):
        del found[name]
    width = max(map(len, found))
    print()
    for name, value in found.items():
        text = ", ".join(f"{key} {number}" for key, number in value.items()) if isinstance(value, dict) else value
        print(f"{name:<{width}}  {text}")
    for skipped in result.ledger.skipped:
        print(f"SKIPPED {skipped}")
    print()
    if not result.violations:
        print("Every promise was kept.")
        return
    print(f"{len(result.violations)} VIOLATIONS")
    for violation in result.violations[:SHOWN]:
        print(f"- {violation}")
    if len(result.violations) > SHOWN:
        print(f"- … and {len(result.violations) - SHOWN} more, in the JSON file")


def write(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schedule = [
        {"kind": fault.kind, "began": round(fault.began, 3), "ended": round(fault.ended, 3), "detail": fault.detail}
        for fault in result.ledger.faults
    ]
    path.write_text(json.dumps({**summary(result), "schedule": schedule}, indent=2) + "\n")
