"""Owns what the columns of a row can say of how it was served: where, with which keys, in which attempts, for how long.

Pure; each check says what is wrong as the end of a sentence about the row.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

from faults.clients import Sighting
from faults.provider import ERROR, Visit
from faults.rows import Row

# What every client calls, as a row names it.
ENDPOINT = "chat.completions"
# Milliseconds by which what is measured a moment later may be longer, on a machine that is busy.
SLACK = 50


def impossible(row: Row, keys: Collection[str], longest: float) -> Iterator[str]:
    """What it cannot say, whoever it is of: with these keys of its owner, in a run of `longest` milliseconds."""
    tried = tried_keys(row)
    if row.endpoint != ENDPOINT:
        yield f"says that {row.endpoint or 'nothing'} was called, not {ENDPOINT}"
    if strange := set(tried) - set(keys):
        yield f"names the keys {_list(strange)}, its owner has {_list(keys)}"
    if tried and not row.provider:
        yield f"names the keys {_list(tried)}, but no provider"
    if row.attempts is not None:
        yield from _of_attempts(row, row.attempts)
    yield from _of_times(row, longest)


def _of_attempts(row: Row, attempts: Sequence[dict[str, object]]) -> Iterator[str]:
    tried = tried_keys(row)
    if len(attempts) < 2:
        yield f"has {len(attempts)} attempts, not null as one that had but one"
        return
    if len(set(tried)) != len(tried):
        yield f"says that a key was tried twice: {_list(tried)}"
    if tried[-1] != str(row.api_key_id):
        yield f"names the key {row.api_key_id}, its last attempt {tried[-1]}"
    for attempt in attempts:
        if (asked := (attempt["provider"], attempt["model"])) != (row.provider, row.model):
            yield f"has an attempt at {asked}, not {(row.provider, row.model)}"
    results = {row.outcome} | ({ERROR} if row.outcome == "provider_error" else set())
    last = attempts[-1]
    if last["result"] not in results or last["status"] != row.status_code:
        expected = f"{'/'.join(sorted(results))} {row.status_code}"
        yield f"says that its last attempt came to {last['result']} {last['status']}, not {expected}"
    took = [int(str(attempt["ms"])) for attempt in attempts]
    if min(took) < 0 or sum(took) > row.latency_ms + SLACK:
        yield f"has attempts of {took} ms, {row.latency_ms} in all"


def _of_times(row: Row, longest: float) -> Iterator[str]:
    if not 0 <= row.latency_ms <= longest:
        yield f"has a latency of {row.latency_ms} ms, not within the run of {longest:.0f}"
    if row.ttft_ms is not None and not 0 <= row.ttft_ms <= row.latency_ms:
        yield f"has its first byte after {row.ttft_ms} ms, not within its latency of {row.latency_ms}"
    if row.overhead_ms is not None and not 0 <= row.overhead_ms <= row.latency_ms + 1:  # that is whole milliseconds
        yield f"has an overhead of {row.overhead_ms} ms, not within its latency of {row.latency_ms}"


def unlike(row: Row, sighting: Sighting, visits: Sequence[Visit]) -> Iterator[str]:
    """What it says otherwise than its client and the provider saw it; not of one whose worker died."""
    tried, keys = tried_keys(row), sighting.tenant.provider_keys
    asked = [keys[visit.key] for visit in visits if visit.key in keys]
    if tried[: len(asked)] != asked:
        yield f"names the keys {_list(tried)}, the provider was asked with {_list(asked)}"
    if sighting.attempts is not None and sighting.attempts != len(tried):
        yield f"names the keys {_list(tried)}, its client was told of {sighting.attempts}"
    if not tried and row.outcome in {"ok", "provider_error", "timeout"}:
        yield f"says {row.outcome}, but names no key"
    refusals = sighting.script.refusals
    for attempt in (row.attempts or ())[:-1]:
        if (came_to := (attempt["result"], attempt["status"])) not in {(ERROR, status) for status in refusals}:
            yield f"says that another key was tried after {came_to}, not {ERROR} {_list(refusals)}"
    yield from _unlike_times(row, sighting)


def _unlike_times(row: Row, sighting: Sighting) -> Iterator[str]:
    waited = (sighting.ended - sighting.began) * 1000
    if (sighting.complete or sighting.refused) and row.latency_ms > waited + SLACK:
        yield f"has a latency of {row.latency_ms} ms, its client waited {waited:.0f}"
    if not sighting.complete:
        return
    if row.latency_ms < (least := sighting.script.takes(streamed=sighting.streamed)):
        yield f"has a latency of {row.latency_ms} ms, the provider took {least}"
    for name in ("ttft_ms", "overhead_ms"):
        if getattr(row, name) is None:
            yield f"has no {name}, its client a whole answer"


def tried_keys(row: Row) -> list[str]:
    """Their ids, in order."""
    if row.attempts:
        return [str(attempt["api_key_id"]) for attempt in row.attempts]
    return [str(row.api_key_id)] if row.api_key_id else []


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
