"""All that `doctor` looks at, in the order of a callback's way."""

from __future__ import annotations

from collections.abc import Iterator

from console.doctor.capacity import look_at_capacity
from console.doctor.clocks import look_at_clocks
from console.doctor.finding import Finding
from console.doctor.ledger import look_at_ledger
from console.doctor.local import look_at_configuration, look_at_files
from console.doctor.processes import look_at_processes
from console.doctor.public import look_from_outside
from console.doctor.servers import look_at_broker, look_at_inbox, look_at_receiver, look_at_spool
from coursewire.settings import Settings


def look(settings: Settings, *, public: bool) -> Iterator[Finding]:
    """`public`: also ask each source's URL as its LMS would."""
    yield from look_at_configuration(settings)
    yield from look_at_files(settings)
    yield from look_at_inbox(settings)
    yield look_at_spool(settings)
    yield look_at_broker(settings)
    yield from look_at_ledger(settings)
    yield from look_at_processes(settings)
    yield from look_at_clocks(settings)
    yield from look_at_capacity(settings)
    yield look_at_receiver(settings)
    if public:
        yield from look_from_outside(settings)
