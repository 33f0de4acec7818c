"""What `doctor` finds: one line for each thing that it looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["good", "warning", "bad"]
# As monitoring systems of the Nagios family want them: OK, WARNING, CRITICAL.
EXIT_CODES: dict[Status, int] = {"good": 0, "warning": 1, "bad": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """`bad`: callbacks are not taken, not safe, or not worked on; `warning`: somebody should look."""

    about: str
    status: Status
    detail: str


def worst(found: Iterable[Finding]) -> Status:
    return max((finding.status for finding in found), key=lambda status: EXIT_CODES[status], default="good")
