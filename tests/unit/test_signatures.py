"""Who is let in, with literal requests."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursewire.errors import NotAuthenticated
from coursewire.settings import Secret, Source
from coursewire.signatures import verify

OLD_AND_NEW = (Secret("old-secret"), Secret("new-secret"))
BY_TOKEN = Source("s", "digitalchalk", tokens=OLD_AND_NEW)
BY_HEADER = Source("s", "digitalchalk", header="X-Hook-Secret", secrets=OLD_AND_NEW)
BY_BASIC = Source("s", "digitalchalk", username="lms", passwords=OLD_AND_NEW)
BY_ACCENTS = Source("s", "digitalchalk", username="josé", passwords=(Secret("senha-ção"),))


def basic(credentials: str) -> str:
    return "Basic " + b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    ("source", "token", "headers", "way"),
    [
        (BY_TOKEN, "old-secret", {}, "path_token"),
        (BY_TOKEN, "new-secret", {}, "path_token"),
        (BY_HEADER, None, {"X-Hook-Secret": "old-secret"}, "header"),
        (BY_HEADER, None, {"x-hook-secret": "new-secret"}, "header"),
        (BY_BASIC, None, {"Authorization": basic("lms:old-secret")}, "basic"),
        (BY_BASIC, None, {"authorization": basic("lms:new-secret").replace("Basic", "bAsIc")}, "basic"),
        (BY_ACCENTS, None, {"Authorization": basic("josé:senha-ção")}, "basic"),
        (Source("s", "p", tokens=(Secret("çá"),)), "çá", {}, "path_token"),
        # WSGI hands the UTF-8 bytes of a header on as Latin-1.
        (
            Source("s", "p", header="X-S", secrets=(Secret("çá"),)),
            None,
            {"X-S": "çá".encode().decode("latin-1")},
            "header",
        ),
        (
            Source("s", "p", username="u", passwords=(Secret("a:b"),)),
            None,
            {"Authorization": basic("u:a:b")},
            "basic",
        ),
    ],
)
def test_each_secret_of_a_rotation_opens_its_way(source, token, headers, way):
    """A source has one way, with one or two secrets, and either of them is right."""
    assert verify(source, token=token, headers=headers) == way


@pytest.mark.parametrize(
    ("source", "token", "headers"),
    [
        (BY_TOKEN, None, {}),
        (BY_TOKEN, "", {}),
        (BY_TOKEN, "wrong", {}),
        (BY_TOKEN, "old-secret ", {}),
        (BY_TOKEN, "old-secre", {}),
        (BY_TOKEN, "\udcff", {}),
        (BY_TOKEN, "ção", {}),
        (BY_TOKEN, None, {"Authorization": "Bearer old-secret"}),
        (BY_HEADER, None, {}),
        (BY_HEADER, None, {"X-Hook-Secret": ""}),
        (BY_HEADER, None, {"X-Hook-Secret": "wrong"}),
        (BY_HEADER, None, {"X-Hook-Secret": "old-secret,old-secret"}),
        (BY_HEADER, None, {"X-Hook-Secret": "\udcff"}),
        (BY_HEADER, None, {"X-Hook-Secret": "\xe9\xff"}),
        (BY_HEADER, "old-secret", {}),
        (BY_HEADER, "old-secret", {"X-Hook-Secret": "old-secret"}),
        (BY_BASIC, None, {}),
        (BY_BASIC, None, {"Authorization": basic("lms:wrong")}),
        (BY_BASIC, None, {"Authorization": basic("other:old-secret")}),
        (BY_BASIC, None, {"Authorization": basic("lms")}),
        (BY_BASIC, None, {"Authorization": basic(":")}),
        (BY_BASIC, None, {"Authorization": basic("")}),
        (BY_BASIC, None, {"Authorization": "Basic"}),
        (BY_BASIC, None, {"Authorization": "Basic lms:old-secret"}),
        (BY_BASIC, None, {"Authorization": "Basic \xe9\udcff="}),
        (BY_BASIC, None, {"Authorization": basic("lms:old-secret").replace("Basic", "Bearer")}),
        (BY_BASIC, "old-secret", {"Authorization": basic("lms:old-secret")}),
        (Source("s", "p"), None, {}),
        (Source("s", "p"), "any", {}),
        (Source("s", "p", header="X-S"), None, {"X-S": ""}),
        (Source("s", "p", username="u"), None, {"Authorization": basic("u:")}),
    ],
)
def test_everything_else_is_refused(source, token, headers):
    """There is no way in without the secret, and none by which a malformed request becomes an error."""
    with pytest.raises(NotAuthenticated) as refused:
        verify(source, token=token, headers=headers)
    assert "secret" not in refused.value.detail.replace("source's secret", "")


@given(
    source=st.sampled_from([BY_TOKEN, BY_HEADER, BY_BASIC, BY_ACCENTS]),
    token=st.none() | st.text(st.characters()),
    headers=st.dictionaries(
        st.sampled_from(["Authorization", "X-Hook-Secret"]),
        st.text(st.characters()) | st.text(st.characters()).map(lambda text: f"Basic {text}"),
    ),
)
def test_no_request_makes_it_fail(source, token, headers):
    """Whatever is sent, the answer is a way or `NotAuthenticated`."""
    with pytest.raises(NotAuthenticated):
        verify(source, token=token, headers=headers)
