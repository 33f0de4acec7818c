"""A `send` handler whose effect takes time and nothing else, as a plug-in: see `bench.scaling`."""

from __future__ import annotations

import time
from collections.abc import Iterable

from marshmallow import Schema, fields

from coursewire import Event, Handler


class Sleeps(Handler):
    wants = frozenset({"*"})

    class Options(Schema):
        seconds = fields.Float(load_default=0.05)

    def send(self, event: Event, key: str) -> Iterable[Event] | None:
        time.sleep(self.options["seconds"])
        return None
