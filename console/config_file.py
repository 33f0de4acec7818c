"""coursewire.toml: the first one, and changing it without losing its comments."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from console import private

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_FIRST = """\
# Coursewire's configuration. `coursewire up` reads it again when it changes.
# Every top-level key may be given as COURSEWIRE_<KEY> in the environment as well, which wins.
# Secrets are literal, or "env:NAME", or "file:PATH"; a list of two while one is rotated.

# How the senders reach this host, for the URLs that are printed:
# public_url = "https://hooks.example.org"
# Proxies whose X-Forwarded-For is believed:
# trusted_proxies = ["10.0.0.0/8"]
# Servers to use instead of the embedded ones:
# redis_url = "redis://127.0.0.1:6379/0"
# database_url = "postgresql://coursewire@127.0.0.1/coursewire"
# log_level = "info"

# A source is one LMS account that calls us, at /hooks/<name>. It proves itself by one of:
#   token = "..."                             in the path: /hooks/<name>/<token>
#   header = "X-Hook-Secret", secret = "..."  in a header
#   username = "...", password = "..."        HTTP Basic
# timezone is for times that are sent without a zone.

[sources.digitalchalk]
provider = "digitalchalk"
token = "{digitalchalk}"

[sources.toolzz]
provider = "toolzz"
token = "{toolzz}"
# timezone = "America/Sao_Paulo"

# A handler turns events into effects. Its name is for ever; `uses` says which plug-in it is where that is
# not its name; `events` narrows the event types that it gets.

[handlers.audit]

[handlers.progress]

[handlers.certificates]

[handlers.notifications]
# Until it is told where to, it skips every event.
# events = ["certificate.awarded"]
# urls = ["mailto://user:password@example.org?to=training@example.org"]
"""


def fresh_token() -> str:
    """A secret that nobody guesses, of characters that stand in a URL's path as they are."""
    token = secrets.token_urlsafe(32)
    # Where a command line takes the token, one with a leading hyphen would look like an option.
    return token if token[0] != "-" else fresh_token()


def write_first(path: Path) -> None:
    """Write a configuration with a source for each LMS, fresh tokens and every handler; where none is yet."""
    text = _FIRST.format(digitalchalk=fresh_token(), toolzz=fresh_token())
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def read(path: Path) -> TOMLDocument:
    """The file as it is written, with its comments, to be changed and given to `save`."""
    import tomlkit

    return tomlkit.parse(path.read_text(encoding="utf-8"))


def save(path: Path, document: TOMLDocument) -> None:
    """Replace the file, as one that only its owner may read."""
    import tomlkit

    private.write(path, tomlkit.dumps(document).encode())
