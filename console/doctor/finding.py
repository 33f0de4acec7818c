"""What `doctor` finds: one line for each thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`bad`: callbacks are not taken, not safe, or not worked on; `warning`: somebody should look."""

    about: str
    verdict: Verdict
    detail: str
