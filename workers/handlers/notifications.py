"""`notifications`: tells people by Apprise, which knows mail, chat and some hundred other services.

`urls` are told of each event; with `to_learner` the learner is mailed as well, through `mail_url`. All get
one subject and body, which are Jinja2 templates over `event` (see `coursewire.event.Event`).

The delivery's key is in the header `X-Coursewire-Key` where the service takes headers (mail, `json://`,
`xml://`, `form://`), so that whoever gets a repetition can recognise it.

A failure is told apart as far as Apprise says why. Permanent: the mail server refused a recipient for good
(5xx to RCPT). Everything else is temporary: 4xx, no or a wrong login, a sender or text that is refused, any
HTTP status (a Retry-After is not seen), a time-out. Where one of several targets failed, a repetition goes to
all of them again: whoever does not want that gives each target a handler of its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from marshmallow import Schema, ValidationError, fields, validates_schema

from coursewire.errors import Code, Permanent, Skip, Temporary
from coursewire.event import Event, EventType
from coursewire.plugins import Handler
from coursewire.settings import Secret, option, resolve_secret
from workers.templates import check_template, one_line, render

if TYPE_CHECKING:
    # Its import costs about a second, which a process without notifications does not pay.
    from apprise import AppriseAsset, AppriseResult, NotifyBase
    from apprise.result import NotifyResult

KEY_HEADER = "X-Coursewire-Key"
# Shorter than the time limit, so that a server that hangs costs an attempt and not the worker.
ANSWER_SECONDS = 20.0

SUBJECT = """\
{{ event.course.title or "A course" }}: \
{{ "certificate awarded" if event.type == "certificate.awarded" else "completed" }}"""
BODY = """\
{{ event.learner.name or event.learner.email or "A learner" }} \
{{ "was awarded a certificate for" if event.type == "certificate.awarded" else "completed" }} \
{{ event.course.title or "a course" }}{{ " (not passed)" if event.result.passed is false }}.
"""

# smtplib's exception, as Apprise logs it, or Apprise's own line where only some recipients were refused.
_REFUSED = re.compile(r"""\A(?:Socket Exception: \{.*?['"]: \(|SMTP recipient .*? was refused: )(\d{3})\b""")
_TROUBLES = ("Socket Exception: ", "SMTP recipient ")
_HTTP_STATUS = re.compile(r"\berror=(\d{3})\b")
# What every mail server takes without extensions; Apprise would read other forms as several recipients.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


class AppriseUrl(fields.Field[Secret]):
    """An Apprise URL, literal, `env:NAME` or `file:PATH`. What is wrong is told without the URL."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Secret:
        url = Secret(resolve_secret(value))
        try:
            _service(url, "key")
        except ValueError as exc:
            raise ValidationError(str(exc)) from exc
        return url


class MailUrl(AppriseUrl):
    """A `mailto://` or `mailtos://` URL that names the server and the sender, and no recipient."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Secret:
        url = super()._deserialize(value, attr, data, **kwargs)
        if not url.reveal().lower().startswith(("mailto://", "mailtos://")):
            raise ValidationError("must be a mailto:// or mailtos:// URL")
        mail: Any = _service(url, "key")
        if mail.targets != [(False, mail.from_addr[1])]:
            raise ValidationError("must name no recipient: the learner is the recipient")
        return url


class Notifications(Handler):
    wants = frozenset({EventType.COURSE_COMPLETED, EventType.PATH_COMPLETED, EventType.CERTIFICATE_AWARDED})
    concurrency = 4

    class Options(Schema):
        urls = fields.List(AppriseUrl(), **option((), "Apprise URLs that are told of each event"))
        to_learner = fields.Boolean(
            truthy={True}, falsy={False}, **option(False, "whether the learner is mailed")
        )
        mail_url = MailUrl(**option(None, "Apprise mail URL without a recipient, for mails to learners"))
        subject = fields.String(
            validate=check_template, **option(SUBJECT, "Jinja2 template of the subject, over `event`")
        )
        body = fields.String(
            validate=check_template, **option(BODY, "Jinja2 template of the text, over `event`")
        )

        @validates_schema
        def _learner_needs_mail(self, data: Mapping[str, Any], **kwargs: Any) -> None:
            if data.get("to_learner") and data.get("mail_url") is None:
                raise ValidationError("is needed where to_learner is true", "mail_url")

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        super().__init__(name, options)
        self._urls: tuple[Secret, ...] = tuple(options["urls"])
        self._mail_url: Secret | None = options["mail_url"] if options["to_learner"] else None
        _silence()

    def send(self, event: Event, key: str) -> Iterable[Event] | None:
        if not self._urls and self._mail_url is None:
            raise Skip(Code.NOT_CONFIGURED)
        services = [_service(url, key) for url in self._urls]
        address = _address(event)
        if self._mail_url is not None and address is not None:
            services.append(_mail_to(address, self._mail_url, key))
        if not services:
            raise Skip(Code.NO_ADDRESS)
        body = render(self.options["body"], event)
        if not body.strip():
            raise Permanent("the body's template gives nothing for this event")
        self._notify(services, one_line(render(self.options["subject"], event)), body)
        return None

    def _notify(self, services: list[NotifyBase], subject: str, body: str) -> None:
        from apprise import Apprise

        result = Apprise(services, asset=_asset()).notify(
            title=subject,
            body=body,
            body_format="text",
            # Kept with the result, in memory: the only place where Apprise says why.
            log_level=logging.DEBUG,
        )
        if not result:
            raise _verdict(result)


def _service(url: Secret, key: str) -> NotifyBase:
    """Made anew for each message, since the key is in its URL; a service without headers passes over it."""
    _silence()
    from apprise import Apprise

    text = url.reveal()
    joint = "&" if "?" in text else "?"
    service = Apprise.instantiate(f"{text}{joint}+{KEY_HEADER}={quote(key, safe='')}", asset=_asset())
    if service is None:
        raise ValueError("is no URL that Apprise can use")
    return service


def _mail_to(address: str, url: Secret, key: str) -> NotifyBase:
    mail: Any = _service(url, key)
    # Set rather than put into the URL: Apprise reads `o'brien@example.org` there as a name and an address.
    mail.targets = [(False, address)]
    service: NotifyBase = mail
    return service


def _address(event: Event) -> str | None:
    """The learner's address, if mail can be sent to it."""
    email = event.learner.email if event.learner else None
    return email if email and _ADDRESS.fullmatch(email) else None


def _verdict(result: AppriseResult) -> Permanent | Temporary:
    failed = [one for one in result.results if not one]
    said = "; ".join(sorted(f"{one.name}: {_reason(one)}" for one in failed)) or "nothing was sent"
    if failed and all(_refused_for_good(one) for one in failed):
        return Permanent(said)
    return Temporary(said)


def _refused_for_good(one: NotifyResult) -> bool:
    troubles = [entry.message for entry in one.logs() if entry.message.startswith(_TROUBLES)]
    refusals = [_REFUSED.match(message) for message in troubles]
    return bool(refusals) and all(refusal is not None and refusal[1] >= "500" for refusal in refusals)


def _reason(one: NotifyResult) -> str:
    """In words of ours: Apprise's lines hold addresses and parts of URLs."""
    if one.status.name == "TIMEOUT":
        return f"no answer within {ANSWER_SECONDS:g} s"
    for entry in one.logs():
        if refusal := _REFUSED.match(entry.message):
            return f"recipient refused with {refusal[1]}"
        if status := _HTTP_STATUS.search(entry.message):
            return f"answered with status {status[1]}"
    return "failed"


@cache
def _asset() -> AppriseAsset:
    from apprise import AppriseAsset

    return AppriseAsset(app_id="Coursewire", app_desc="Coursewire", service_timeout=ANSWER_SECONDS)


@cache
def _silence() -> None:
    """Apprise logs addresses, texts and parts of URLs, and the HTTP client whole paths, which hold tokens.

    Apprise's level stays low, since its lines are what tells one failure from another.
    """
    log = logging.getLogger("apprise")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    # Without any, logging prints warnings to stderr by itself.
    log.addHandler(logging.NullHandler())
    logging.getLogger("urllib3").setLevel(logging.ERROR)
