"""What backup and restore say to people."""

from __future__ import annotations

from pathlib import Path

from console.backup.archive import Manifest
from console.backup.restore import Restored
from console.tables import counted


def backup_text(file: Path, manifest: Manifest) -> str:
    size = file.stat().st_size / (1 << 20)
    lines = [f"{file}: {size:,.1f} MiB, {_counts(manifest)}."]
    if manifest.keep:
        lines.append(f"Not in it, keep it elsewhere: {', '.join(manifest.keep)}.")
    return "\n".join(lines)


def restored_text(restored: Restored) -> str:
    manifest = restored.manifest
    lines = [f"Restored into {restored.data_dir}, as of {manifest.taken_at}: {_counts(manifest)}."]
    if restored.config_path is not None:
        lines.append(f"The configuration is {restored.config_path}.")
    if restored.aside is not None:
        lines.append(f"What was there before is in {restored.aside}.")
    lines.append("Now start it: `coursewire up`, or `coursewire migrate` and then each part.")
    return "\n".join(lines)


def _counts(manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"{counted(counts['receipts'], 'receipt')}, {counted(counts['events'], 'event')}, and"
        f" {counted(counts['callbacks'], 'callback')} not yet ingested"
    )
