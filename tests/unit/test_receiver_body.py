from __future__ import annotations

import gzip
import io
import zlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.body import decoded, read

LIMIT = 10_000
# The same bytes in every process: they are part of tests' names.
packed = partial(gzip.compress, mtime=0)


class Trickle(io.RawIOBase):
    """A stream that never has more than seven bytes at once, and counts what was taken."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        given = min(size, self.left, 7)
        self.left -= given
        self.taken += given
        return b"x" * given


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def test_a_body_that_comes_in_pieces_is_whole():
    """Servers may give less than was asked for before the end."""
    assert len(read(Trickle(5000), LIMIT)) == 5000


def test_no_more_than_one_byte_over_the_limit_is_read():
    """However long the sender goes on."""
    endless = Trickle(10**12)
    assert len(read(endless, LIMIT)) == 10_001
    assert endless.taken == 10_001


@pytest.mark.parametrize(
    ("encoding", "raw", "body"),
    [
        ("gzip", packed(b"{}"), b"{}"),
        (" GZIP ", packed(b"{}"), b"{}"),
        ("x-gzip", packed(b"{}"), b"{}"),
        ("gzip", packed(b"[1,") + packed(b"2]"), b"[1,2]"),
        ("deflate", zlib.compress(b"{}"), b"{}"),
        ("deflate", raw_deflate(b"{}"), b"{}"),
        ("gzip", packed(b""), b""),
        ("", b"{}", b"{}"),
        ("identity", b"{}", b"{}"),
    ],
)
def test_known_encodings_are_undone(encoding, raw, body):
    """So that what is stored is what was meant."""
    assert decoded(raw, encoding, LIMIT) == body


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("gzip", b"{}"),
        ("gzip", packed(b"{}" * 100)[:-5]),
        ("gzip", packed(b"{}") + b"junk"),
        ("gzip", packed(b"{}")[:-4] + b"\0\0\0\0"),
        ("deflate", b"{}"),
        ("deflate", zlib.compress(b"{}" * 100)[:-5]),
        ("deflate", zlib.compress(b"{}") + b"junk"),
        ("br", b"\x0b\x01\x80{}\x03"),
        ("gzip, gzip", packed(packed(b"{}"))),
    ],
)
def test_what_cannot_be_undone_stays_as_it_came(encoding, raw):
    """It is quarantined later; a known sender is never refused for the content."""
    assert decoded(raw, encoding, LIMIT) == raw


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("gzip", packed(b"\0" * 50_000_000)),
        ("gzip", packed(b"\0" * 6000) * 1000),
        ("deflate", zlib.compress(b"\0" * 50_000_000)),
        ("deflate", raw_deflate(b"\0" * 50_000_000)),
    ],
)
def test_a_bomb_yields_one_byte_over_the_limit(encoding, raw):
    """Enough to know that it is too large."""
    assert len(decoded(raw, encoding, LIMIT)) == LIMIT + 1


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_itself_is_allowed(size):
    """A body of exactly the limit comes out whole, one byte more shows that it is more."""
    assert len(decoded(packed(b"a" * size), "gzip", LIMIT)) == size
    assert len(decoded(zlib.compress(b"a" * size), "deflate", LIMIT)) == size


@given(raw=st.binary(), encoding=st.sampled_from(["gzip", "deflate", "br", "", "x"]))
def test_no_bytes_make_it_fail(raw, encoding):
    """Any bytes have an outcome within the limit."""
    assert len(decoded(raw, encoding, LIMIT)) <= LIMIT + 1
