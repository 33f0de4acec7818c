"""Notifications against a real SMTP server and a real HTTP server."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from marshmallow import ValidationError

from coursewire.errors import Permanent, Skip, Temporary
from coursewire.event import Course, Event, Learner, Result
from workers.handlers import notifications
from workers.handlers.notifications import Notifications

# Apprise imports it wherever Python still has it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

KEY = "0190b6e4-0000-7000-8000-000000000001/notify"
PASSWORD = "hunter2-never-shown"


@dataclass
class MailServer:
    """Takes mail, but refuses the recipients in `refusals` with the given lines."""

    port: int = 0
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    data_answer: str = "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append((envelope.rcpt_tos, mail))
        return self.data_answer

    def url(self, recipient: str = "", **more: str) -> str:
        options = "".join(f"&{name}={value}" for name, value in more.items())
        return f"mailto://127.0.0.1:{self.port}/{recipient}?from=lms@example.org{options}"


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    server = MailServer(port=free_port())
    controller = Controller(server, hostname="127.0.0.1", port=server.port)
    controller.start()
    yield server
    controller.stop()


@dataclass
class WebServer:
    url: str = ""
    status: int = 200
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    state = WebServer()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append((dict(self.headers), json.loads(body)))
            self.send_response(state.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        state.url = f"json://127.0.0.1:{server.server_port}/hook"
        yield state
        server.shutdown()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def notifier(**options: Any) -> Notifications:
    return Notifications("notify", Notifications.Options().load(options))


def wrong(**options: Any) -> dict[str, Any]:
    """What the options' schema says against them."""
    with pytest.raises(ValidationError) as caught:
        Notifications.Options().load(options)
    messages: dict[str, Any] = caught.value.normalized_messages()
    return messages


# What is sent.


def test_a_mail_reaches_the_learner_with_name_course_and_key(
    mail_server: MailServer, make_event: Callable[..., Event]
) -> None:
    """By default the text names learner and course; the key is in a header; the recipient is the learner."""
    sent = notifier(to_learner=True, mail_url=mail_server.url()).send(make_event(), KEY)
    assert sent is None
    ((recipients, mail),) = mail_server.mails
    assert recipients == ["ana@example.org"]
    assert (mail["To"], mail["Subject"]) == ("ana@example.org", "Algebra: completed")
    assert mail["From"].addresses[0].addr_spec == "lms@example.org"
    assert mail["X-Coursewire-Key"] == KEY
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().strip() == "Ana Souza completed Algebra."


def test_urls_are_told_the_same_and_the_key(
    mail_server: MailServer, web_server: WebServer, make_event: Callable[..., Event]
) -> None:
    """Every URL and the learner get one subject and body; services with headers get the key in one."""
    handler = notifier(
        urls=[web_server.url, mail_server.url("staff@example.org")],
        to_learner=True,
        mail_url=mail_server.url(),
        subject="{{ event.type }}",
        body="{{ event.result.score }} by {{ event.learner.name }}",
    )
    handler.send(make_event(result=Result(score=87.5)), KEY)
    ((headers, body),) = web_server.requests
    assert headers["X-Coursewire-Key"] == KEY
    assert (body["title"], body["message"]) == ("course.completed", "87.5 by Ana Souza")
    assert sorted(recipients for recipients, _ in mail_server.mails) == [
        ["ana@example.org"],
        ["staff@example.org"],
    ]


def test_secrets_come_from_the_environment_and_from_files(
    web_server: WebServer, make_event: Callable[..., Event], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL may stand in a variable or a file, since it holds a password."""
    (tmp_path / "url").write_text(f"{web_server.url}/from-file\n")
    monkeypatch.setenv("STAFF_CHAT", f"{web_server.url}/from-env")
    handler = notifier(urls=[f"file:{tmp_path / 'url'}", "env:STAFF_CHAT"])
    handler.send(make_event(), KEY)
    assert len(web_server.requests) == 2
    assert "127.0.0.1" not in repr(handler.options)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("Ana\r\nBcc: eve@example.org", "Ana Bcc: eve@example.org: done"),
        ("Ana\n\n<script>", "Ana <script>: done"),
        ("Ana\u2028\x85\x0bX", "Ana X: done"),
        ("Ação 👩\u200d🎓", "Ação 👩\u200d🎓: done"),
    ],
)
def test_a_name_cannot_add_a_header(
    mail_server: MailServer, make_event: Callable[..., Event], name: str, subject: str
) -> None:
    """Line breaks of a value become spaces in the subject, so that no header can be smuggled in."""
    handler = notifier(to_learner=True, mail_url=mail_server.url(), subject="{{ event.learner.name }}: done")
    handler.send(make_event(learner=Learner(id="1", name=name, email="ana@example.org")), KEY)
    ((recipients, mail),) = mail_server.mails
    assert (recipients, mail["Subject"], mail["Bcc"]) == (["ana@example.org"], subject, None)


def test_an_address_is_taken_as_it_is(mail_server: MailServer, make_event: Callable[..., Event]) -> None:
    """An apostrophe belongs to the address, and begins no display name."""
    handler = notifier(to_learner=True, mail_url=mail_server.url())
    handler.send(make_event(learner=Learner(id="1", email="miles.o'brien+lms@example.org")), KEY)
    ((recipients, _),) = mail_server.mails
    assert recipients == ["miles.o'brien+lms@example.org"]


def test_text_is_not_escaped_for_html(mail_server: MailServer, make_event: Callable[..., Event]) -> None:
    """Bodies are plain text: `&` and `<` of a title stay what they are."""
    handler = notifier(to_learner=True, mail_url=mail_server.url(), body="{{ event.course.title }}")
    handler.send(make_event(course=Course(id="1", title="R&D <advanced>")), KEY)
    ((_, mail),) = mail_server.mails
    assert mail.get_content().strip() == "R&D <advanced>"


# What is skipped.


def test_without_a_url_it_is_skipped(make_event: Callable[..., Event]) -> None:
    """An installation that configured nothing is told so, not failed."""
    with pytest.raises(Skip, match=r"\Anot_configured\Z"):
        notifier().send(make_event(), KEY)


@pytest.mark.parametrize(
    "learner",
    [
        None,
        Learner(id="1"),
        Learner(id="1", email="none"),
        Learner(id="1", email="a@example.org, b@example.org"),
        Learner(id="1", email="Ana <a@example.org>"),
        Learner(id="1", email="a@example.org\r\nRCPT TO:<b@example.org>"),
        Learner(id="1", email="josé@example.org"),
    ],
)
def test_without_a_usable_address_it_is_skipped(
    mail_server: MailServer, make_event: Callable[..., Event], learner: Learner | None
) -> None:
    """Exactly one plain address, or no mail; other targets are told all the same."""
    with pytest.raises(Skip, match=r"\Ano_address\Z"):
        notifier(to_learner=True, mail_url=mail_server.url()).send(make_event(learner=learner), KEY)
    assert mail_server.mails == []
    notifier(to_learner=True, mail_url=mail_server.url(), urls=[mail_server.url("staff@example.org")]).send(
        make_event(learner=learner), KEY
    )
    ((recipients, _),) = mail_server.mails
    assert recipients == ["staff@example.org"]


# What fails.


@pytest.mark.parametrize(
    ("answer", "error", "detail"),
    [
        ("550 5.1.1 no such user", Permanent, "E-Mail: recipient refused with 550"),
        ("451 4.7.1 greylisted", Temporary, "E-Mail: recipient refused with 451"),
    ],
)
def test_a_refused_recipient_is_permanent_or_temporary_as_the_server_says(
    mail_server: MailServer,
    make_event: Callable[..., Event],
    answer: str,
    error: type[Exception],
    detail: str,
) -> None:
    """5xx to RCPT is for good, 4xx is not; what is kept names neither address nor server."""
    mail_server.refusals["ana@example.org"] = answer
    with pytest.raises(error) as caught:
        notifier(to_learner=True, mail_url=mail_server.url()).send(make_event(), KEY)
    assert str(caught.value) == detail


def test_a_refused_copy_is_told_apart_as_well(
    mail_server: MailServer, make_event: Callable[..., Event]
) -> None:
    """Where the server takes one recipient and refuses another, the refusal still says whether for good."""
    mail_server.refusals["copy@example.org"] = "550 5.1.1 no such user"
    with pytest.raises(Permanent, match="recipient refused with 550"):
        notifier(urls=[mail_server.url("staff@example.org", bcc="copy@example.org")]).send(make_event(), KEY)
    assert len(mail_server.mails) == 1


def test_a_refused_text_is_temporary(mail_server: MailServer, make_event: Callable[..., Event]) -> None:
    """Only a refused recipient is known to be for good."""
    mail_server.data_answer = "554 5.7.1 looks like spam"
    with pytest.raises(Temporary, match=r"\AE-Mail: failed\Z"):
        notifier(to_learner=True, mail_url=mail_server.url()).send(make_event(), KEY)


def test_one_failed_target_of_two_fails_the_attempt(
    mail_server: MailServer, web_server: WebServer, make_event: Callable[..., Event]
) -> None:
    """The others were told, and will be again: a failure for good beside a passing one is temporary."""
    web_server.status = 503
    mail_server.refusals["ana@example.org"] = "550 5.1.1 no such user"
    handler = notifier(urls=[web_server.url], to_learner=True, mail_url=mail_server.url())
    with pytest.raises(Temporary) as caught:
        handler.send(make_event(), KEY)
    assert str(caught.value) == "E-Mail: recipient refused with 550; JSON: answered with status 503"


def test_nobody_listening_is_temporary(make_event: Callable[..., Event]) -> None:
    """A refused connection is tried again later."""
    with pytest.raises(Temporary, match="failed"):
        notifier(urls=[f"json://127.0.0.1:{free_port()}"]).send(make_event(), KEY)


def test_a_server_that_hangs_costs_an_attempt_and_not_the_worker(
    make_event: Callable[..., Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends by itself, before the time limit would kill the worker."""
    assert Notifications.time_limit_seconds > notifications.ANSWER_SECONDS
    monkeypatch.setattr(notifications, "ANSWER_SECONDS", 0.3)
    notifications._asset.cache_clear()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        handler = notifier(urls=[f"mailto://127.0.0.1:{port}/staff@example.org?from=lms@example.org&cto=2"])
        with pytest.raises(Temporary, match=r"\AE-Mail: no answer within 0.3 s\Z"):
            handler.send(make_event(), KEY)
    notifications._asset.cache_clear()


def test_nothing_secret_or_personal_is_logged(
    mail_server: MailServer,
    web_server: WebServer,
    make_event: Callable[..., Event],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither Apprise nor its HTTP client write addresses, texts or tokens, at whatever level."""
    log = StringIO()
    monkeypatch.setattr(logging.getLogger("mail.log"), "disabled", True)  # the server of this test
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(log)])
    caplog.set_level(logging.DEBUG)
    web_server.status = 500
    mail_server.refusals["ana@example.org"] = "550 <ana@example.org> unknown"
    token = web_server.url.replace("json://", f"json://user:{PASSWORD}@")
    with pytest.raises(Temporary):
        notifier(urls=[token], to_learner=True, mail_url=mail_server.url()).send(make_event(), KEY)
    logging.getLogger("another").debug("is heard")
    assert "is heard" in log.getvalue()
    output = capfd.readouterr()
    for text in (log.getvalue(), output.out, output.err):
        for private in ("ana@", "Ana", PASSWORD, "/hook"):
            assert private not in text


# What is found at boot.


def test_a_bad_url_stops_at_boot_without_showing_it() -> None:
    """The message names the option and its place in the list, and never the URL."""
    messages = wrong(urls=["json://127.0.0.1", f"slck://user:{PASSWORD}@team", f"mailto://{PASSWORD}@"])
    assert messages == {
        "urls": {1: ["is no URL that Apprise can use"], 2: ["is no URL that Apprise can use"]}
    }
    assert wrong(mail_url=f"json://user:{PASSWORD}@host") == {
        "mail_url": ["must be a mailto:// or mailtos:// URL"]
    }
    assert wrong(urls=["env:NOT_SET_ANYWHERE"]) == {
        "urls": {0: ["the environment variable NOT_SET_ANYWHERE is not set"]}
    }


def test_mails_to_learners_need_a_server_and_no_recipient() -> None:
    """`to_learner` without a mail URL, or with one that has a recipient already, is a mistake."""
    assert wrong(to_learner=True) == {"mail_url": ["is needed where to_learner is true"]}
    assert wrong(to_learner="yes") == {"to_learner": ["Not a valid boolean."]}
    assert wrong(mail_url="mailto://u:p@smtp.example.org/boss@example.org?from=lms@example.org") == {
        "mail_url": ["must name no recipient: the learner is the recipient"]
    }


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ event.learner.name", "line 1: unexpected end of template, expected 'end of print statement'."),
        ("{{ learner.name }}", "there is only `event`, not learner"),
        ("{{ event.lerner.name }}", "'coursewire.event.Event object' has no attribute 'lerner'"),
        (
            "{% if event.type == 'path.completed' %}{{ event.nothing }}{% endif %}",
            "'coursewire.event.Event object' has no attribute 'nothing'",
        ),
        ("{{ event.learner.name | shout }}", "line 1: No filter named 'shout'."),
        ("{{ event.__class__.__mro__ }}", "access to attribute '__class__' of 'Event' object is unsafe."),
        (
            "{{ event.result.score | round }}",
            "fails where an event lacks what it uses, without an `if`: "
            "type ChainableUndefined doesn't define __round__ method",
        ),
    ],
)
def test_a_template_that_cannot_work_stops_at_boot(template: str, message: str) -> None:
    """What would fail, or come out empty, at every delivery is found by a trial."""
    assert wrong(subject=template) == {"subject": [message]}
    assert wrong(body=template) == {"body": [message]}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ event.learner.name }}|", "|"),
        ("{{ event.course.title or 'a course' }}", "a course"),
        ("{{ event.data.lesson.title }}|{{ event.data['school'] }}", "|"),
        ("{% for course in event.data.courses %}{{ course.title }}{% endfor %}.", "."),
        ("{% if event.result.score %}{{ event.result.score | round(1) }}{% endif %}.", "."),
    ],
)
def test_what_an_event_lacks_renders_as_nothing(
    web_server: WebServer, make_event: Callable[..., Event], template: str, text: str
) -> None:
    """No part is always there, and the provider's own rest may have any name: neither fails a delivery."""
    handler = notifier(urls=[web_server.url], body=template)
    handler.send(make_event(learner=None, course=None, result=None), KEY)
    ((_, body),) = web_server.requests
    assert body["message"] == text


def test_a_template_that_fails_for_one_event_is_permanent(
    web_server: WebServer, make_event: Callable[..., Event]
) -> None:
    """It would fail for this event every time; what the event holds is not quoted."""
    handler = notifier(
        urls=[web_server.url], body="{% if event.data.points %}{{ 1 + event.data.points }}{% endif %}."
    )
    with pytest.raises(Permanent, match=r"\Athe template fails: TypeError\Z"):
        handler.send(make_event(data={"points": "many"}), KEY)
    handler = notifier(urls=[web_server.url], body="{{ event.data.text }}")
    with pytest.raises(Permanent, match="gives nothing for this event"):
        handler.send(make_event(), KEY)
    assert web_server.requests == []


def test_a_process_without_notifications_does_not_load_apprise() -> None:
    """Its import costs about a second, which every command would pay."""
    code = (
        "import sys; from workers.handlers.notifications import Notifications as N;"
        "N('n', N.Options().load({})); sys.exit('apprise' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
