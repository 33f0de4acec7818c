"""The plan of a replay and what came of it, for people."""

from __future__ import annotations

from collections.abc import Iterator

from console.tables import counted, one_line
from coursewire.errors import Code
from coursewire.ledger.replay import Result
from coursewire.ledger.replay_plan import Plan, Readings


def plan_text(plan: Plan) -> str:
    return "\n".join(_plan(plan))


def result_text(done: Result) -> str:
    lines = []
    if done.read_again:
        lines.append(f"Read {counted(done.read_again, 'callback')} again: {_readings(done.became)}.")
    if done.run_again:
        lines.append(f"Waiting to run again: {counted(done.run_again, 'delivery', 'deliveries')}.")
    if done.offered:
        lines.append(f"Waiting for the first time: {counted(done.offered, 'delivery', 'deliveries')}.")
    return "\n".join(lines) or "There was nothing left to do."


def _plan(plan: Plan) -> Iterator[str]:
    if plan.empty:
        yield "There is nothing to replay."
    if plan.read_again:
        yield f"Read again with today's schemas: {counted(plan.read_again, 'callback')}."
        first = f"The first {plan.looked_at:,}" if plan.looked_at < plan.read_again else "That"
        yield f"  {first} would come to {_readings(plan.would_be)}."
    if plan.run_again:
        yield f"Run again: {counted(plan.run_again, 'dead delivery', 'dead deliveries')}."
    if plan.offer:
        yield f"Offer to a handler that never got them: {counted(plan.offer, 'event')}."
    if plan.finished:
        yield f"Finished, and stay as they are: {counted(plan.finished, 'delivery', 'deliveries')}."
    if plan.waiting:
        yield f"Under way already: {counted(plan.waiting, 'delivery', 'deliveries')}."
    if plan.retired:
        yield f"Dead for good, since their handler is retired: {plan.retired:,}."
    if plan.would_be.conflicts:
        yield "A conflict stays: only a person can tell which is right (`coursewire explain`)."
    if any(row.now.startswith(Code.UNKNOWN_OUTCOME) for row in plan.rows):
        yield "Careful: of some it is unknown whether they had their effect; it may come twice."
    for row in plan.rows:
        yield ""
        yield f"{row.kind} {row.event or row.receipt}"
        yield f"  {one_line(f'{row.handler}: {row.now}' if row.handler else row.now)}"
    if plan.more:
        yield ""
        yield f"... and {plan.more:,} more."


def _readings(readings: Readings) -> str:
    counts = {
        "new events": readings.events,
        "duplicates": readings.duplicates,
        "in quarantine for other errors": readings.quarantined,
        "in conflict": readings.conflicts,
        "unchanged": readings.unchanged - readings.conflicts,
    }
    said = [f"{count:,} {word}" for word, count in counts.items() if count]
    said += [f"{count:,} not read ({why})" for why, count in readings.obstacles.items()]
    return ", ".join(said) or "nothing"
