from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option
from console.options import json_option, limit_option, open_for_reading, source_option


@click.command()
@source_option
@click.option("--learner", metavar="WHO", help="The LMS's id of the learner, or an e-mail address.")
@click.option("--course", metavar="ID", help="The LMS's id of the course.")
@limit_option
@json_option
@data_dir_option
def command(
    source: str | None,
    learner: str | None,
    course: str | None,
    limit: int | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """How far each learner is in each course."""
    from console.learner_reports import list_progress
    from console.tables import Column, show, when

    with open_for_reading(data_dir, source=source) as (_, engine):
        show(
            list_progress(engine, source=source, learner=learner, course=course, limit=limit),
            as_json=as_json,
            shape=("source", "learner", "course", "progress", "completed", "passed", "updated_at"),
            columns=[
                Column("Learner", 25, learner_text),
                Column("Course", None, lambda row: f"{course_text(row)}\n{row['source']}"),
                Column("Progress", 9, _progress, right=True),
                Column("Updated", 20, lambda row: when(row["updated_at"])),
            ],
            nothing="No progress.",
        )


def learner_text(row: Any) -> str:
    learner = row["learner"]
    return "\n".join(str(part) for part in (learner["name"], learner["email"], learner["id"]) if part)


def course_text(row: Any) -> str:
    course = row["course"]
    return "\n".join(str(part) for part in (course["title"], course["id"]) if part)


def _progress(row: Any) -> str:
    percent = "" if row["progress"] is None else f"{row['progress']:g} %"
    words = {(True, True): "passed", (True, False): "failed", (True, None): "completed"}
    return "\n".join(part for part in (percent, words.get((row["completed"], row["passed"]), "")) if part)
