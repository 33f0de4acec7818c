"""`coursewire up --samples`: posts what the LMSs send, waits for the effects, and shows them."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from console.outcomes import Posted, problems, wait
from coursewire.settings import Settings, Source
from schemas.samples import demo

POST_SECONDS = 10.0
# Wide enough for a column a handler, where the output is no terminal.
WIDTH = 170
CERTIFICATES = "certificates"
COLOURS = {"done": "green", "skipped": "dim", "dead": "red", "quarantined": "yellow"}


def demonstrate(settings: Settings, listening: str, ended: threading.Event) -> bool:
    """Post, wait and print; whether all came out as expected. Returns early when `ended` is set."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    posted: list[Posted] = []
    sources = {source.provider: source for source in reversed(list(settings.sources.values()))}
    left_out: set[str] = set()
    for sample in demo(datetime.now(UTC), secrets.token_hex(8)):
        source = sources.get(sample.provider)
        if source is None:
            left_out.add(sample.provider)
            continue
        receipt, problem = _post(replace(settings, public_url=listening), source, sample.body)
        if receipt is None:
            console.print(f"[red]not as expected: {escape(sample.title)} was not taken: {problem}[/red]")
            return False
        posted.append(Posted(sample, source.name, receipt))
    wait(settings, posted, ended)
    if ended.is_set():
        return False
    if posted:
        console.print(_table(posted, list(settings.handlers)))
    for provider in sorted(left_out):
        console.print(f"No source of {provider} is configured: its samples were left out.")
    awarding = [name for name, handler in settings.handlers.items() if handler.uses == CERTIFICATES]
    wrong = problems(posted, awarding)
    for line in wrong:
        console.print(f"[red]not as expected: {escape(line)}[/red]", soft_wrap=True)
    if not wrong:
        console.print(f"All {len(posted)} callbacks came out as expected.")
    console.print("\n".join(_next_steps(settings, posted)), soft_wrap=True, markup=False, highlight=False)
    return not wrong


def _post(settings: Settings, source: Source, body: bytes) -> tuple[str | None, str]:
    """Post as the LMS does; the receipt, or why there is none."""
    request = urllib.request.Request(  # noqa: S310 - our own receiver's address
        settings.source_url(source), body, {"Content-Type": "application/json"}
    )
    if source.header is not None:
        request.add_header(source.header, source.secrets[0].reveal())
    if source.username is not None:
        pair = f"{source.username}:{source.passwords[0].reveal()}"
        request.add_header("Authorization", f"Basic {b64encode(pair.encode()).decode()}")
    # It is this host: a proxy of the environment has no business here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=POST_SECONDS) as answer:
            return str(json.load(answer)["receipt"]), ""
    except urllib.error.HTTPError as exc:
        return None, f"HTTP status {exc.code}"
    except OSError as exc:
        return None, type(exc).__name__


def _table(posted: Sequence[Posted], handlers: Sequence[str]) -> Table:
    table = Table("sent", "event", "source", *handlers)
    for each in posted:
        title, source = escape(each.sample.title), escape(each.source)
        for effect in each.effects:
            cells = [_cell(*effect.handlers.get(handler, ("", None))) for handler in handlers]
            if effect.depth:
                table.add_row("", f"↳ {escape(effect.type)}", "", *cells)
            else:
                table.add_row(title, escape(effect.type), source, *cells)
        if not each.effects:
            table.add_row(title, f"{_cell(each.state)}\n{escape(chr(10).join(each.complaints))}", source)
    return table


def _cell(state: str, code: str | None = None) -> str:
    text = escape(state if code is None or state == "done" else f"{state}: {code}")
    return f"[{COLOURS[state]}]{text}[/]" if state in COLOURS else text


def _next_steps(settings: Settings, posted: Sequence[Posted]) -> list[str]:
    called = Path(sys.argv[0])
    command = _short(called) if called.name == "coursewire" else "coursewire"
    where = f"--data-dir {_short(settings.data_dir)}"
    steps = {
        "every event": f"{command} events {where}",
        "the certificates": f"{command} certificates {where}",
        "what did not validate, and why": f"{command} quarantine {where}",
        "how much of what": f"{command} stats {where}",
    }
    if posted:
        steps["the whole story of one callback"] = f"{command} explain {posted[-1].receipt} {where}"
    width = max(map(len, steps))
    return ["", "Where to look next:", *(f"  {what:{width}}  {line}" for what, line in steps.items()), ""]


def _short(path: Path) -> str:
    """As it is written from the working directory, where it lies in it."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - without following links
    here = Path.cwd()
    return shlex.quote(str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute))
