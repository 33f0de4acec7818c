from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option
from console.options import hand_down, json_option, open_for_reading


@click.group(invoke_without_command=True)
@click.option("--all", "retired", is_flag=True, help="Retired handlers too.")
@json_option
@data_dir_option
@click.pass_context
def command(ctx: click.Context, retired: bool, as_json: bool, data_dir: Path) -> None:
    """The handlers that the ledger knows, and what waits for each."""
    hand_down(ctx, data_dir=data_dir)
    if ctx.invoked_subcommand is not None:
        return
    from console.tables import Column, show
    from coursewire.ledger.engine import reading
    from coursewire.ledger.reports import list_handlers

    with open_for_reading(data_dir) as (settings, engine), reading(engine) as db:
        records = list_handlers(db, retired=retired)
    show(
        records,
        as_json=as_json,
        shape=("name", "kind", "wants", "queue", "waiting", "dead", "paused"),
        columns=[
            Column("Handler", 20, lambda row: row["name"]),
            Column("Kind", 6, lambda row: row["kind"]),
            Column("Waiting", 7, lambda row: str(row["waiting"]), right=True),
            Column("Dead", 6, lambda row: str(row["dead"]), right=True),
            Column("Wants", None, lambda row: "\n".join([*_flags(row, settings.handlers), *row["wants"]])),
        ],
        nothing="The ledger has no handlers: configure some and run `coursewire migrate`.",
    )
    missing = sorted(set(settings.handlers) - {record["name"] for record in records})
    if missing and not as_json:
        click.echo(f"Configured but not in the ledger yet: {', '.join(missing)} (run `coursewire migrate`).")


@command.command()
@click.argument("name")
@data_dir_option
def pause(name: str, data_dir: Path) -> None:
    """Let a handler's deliveries wait. What a worker has in hand is finished."""
    with open_for_reading(data_dir) as (_, engine):
        changed = _set_paused(engine, name, True)
    click.echo(f"{name} is paused." if changed else f"{name} was paused already.")


@command.command()
@click.argument("name")
@data_dir_option
def resume(name: str, data_dir: Path) -> None:
    """Let a handler go on."""
    from console.wake import wake
    from coursewire.hints import handler_queue

    with open_for_reading(data_dir) as (settings, engine):
        changed = _set_paused(engine, name, False)
        wake(settings, [handler_queue(name)])
    click.echo(f"{name} goes on." if changed else f"{name} was not paused.")


@command.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Also while it is configured.")
@data_dir_option
def retire(name: str, yes: bool, data_dir: Path) -> None:
    """End a handler that is gone: it gets nothing more, and what waits for it is skipped."""
    from console.tables import counted
    from coursewire.ledger.handler_state import retire as retire_handler

    with open_for_reading(data_dir) as (settings, engine):
        if name in settings.handlers and not yes:
            raise click.UsageError(
                f"{name} is still configured, so the next start would bring it back: take it out of "
                f"{settings.config_path} first, or say --yes."
            )
        ended = sum(retire_handler(engine, name))
    words = counted(ended, "delivery that waited for it is", "deliveries that waited for it are")
    click.echo(f"{name} is retired; {words} skipped.")


def _set_paused(engine: Any, name: str, paused: bool) -> bool:
    from coursewire.ledger.handler_state import set_paused

    with engine.begin() as db:
        return set_paused(db, name, paused)


def _flags(row: Any, configured: Any) -> list[str]:
    flags = []
    if row["retired_at"] is not None:
        flags.append("(retired)")
    elif row["name"] not in configured:
        flags.append("(not configured here: `coursewire handlers retire` ends it)")
    if row["paused"]:
        flags.append("(paused)")
    return flags
