from __future__ import annotations

from pathlib import Path

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
    """Certificates that were awarded, newest first."""
    from console.cli.progress import course_text, learner_text
    from console.learner_reports import list_certificates
    from console.tables import Column, show, when

    with open_for_reading(data_dir, source=source) as (_, engine):
        show(
            list_certificates(engine, source=source, learner=learner, course=course, limit=limit),
            as_json=as_json,
            shape=("id", "source", "learner", "course", "registration", "event", "awarded_at"),
            columns=[
                Column("Certificate", 36, lambda row: f"{row['id']}\n{when(row['awarded_at'])}"),
                Column("Learner", 21, learner_text),
                Column("Course", None, lambda row: f"{course_text(row)}\n{row['source']}"),
            ],
            nothing="No certificates.",
        )
