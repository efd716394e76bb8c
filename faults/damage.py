"""Owns damage to a dead writer's segment, and the exact account of which records it hit. Knows no processes."""

import random
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec

from usage.records import HEAD, Begin, End, decode, next_sound, payload_at


@dataclass(frozen=True, slots=True)
class Span:
    start: int
    end: int
    id: UUID | None
    model: str


def spans(data: bytes) -> list[Span]:
    """Where each sound record of a segment lies."""
    found, at = [], next_sound(data, 0)
    while at is not None:
        payload = payload_at(data, at)
        assert payload is not None
        end = at + HEAD + len(payload)
        try:
            record = decode(payload)
        except msgspec.DecodeError:
            record = None
        named = record if isinstance(record, Begin | End) else None
        found.append(Span(at, end, named.id if named else None, named.model if named else ""))
        at = next_sound(data, end)
    return found


def inflict(path: Path, dice: random.Random) -> tuple[str, list[Span]]:
    """Flips bits of one byte, blanks a stretch, or tears off the tail; says what, and which records were hit."""
    data = bytearray(path.read_bytes())
    records = spans(bytes(data))
    if not records:
        return "nothing was written to it", []
    end = records[-1].end
    how = dice.choice(("flip", "blank", "tear"))
    if how == "tear":
        first, last = max(records[0].start, end - dice.randint(1, 400)), end
        data = data[:first]
    else:
        victim = dice.choice(records)
        first = dice.randrange(victim.start, victim.end)
        last = first + 1 if how == "flip" else min(end, first + dice.randint(2, 600))
        for at in range(first, last):
            data[at] = data[at] ^ (1 << dice.randrange(8)) if how == "flip" else 0
    # In place: a reader may have the file open.
    with path.open("r+b") as file:
        file.write(data)
        file.truncate(len(data))
    hit = [record for record in records if record.start < last and first < record.end]
    return f"{how} {first}..{last} of {path.name}", hit
