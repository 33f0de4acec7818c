from __future__ import annotations

from ipaddress import ip_network

import pytest

from receiver.address import remote_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        # A stranger's own header is never believed.
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("::ffff:192.0.2.1", "198.51.100.7", "192.0.2.1"),
        # What stands left of a value that is no address was vouched for by nobody.
        ("10.0.0.1", "198.51.100.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7, <script>, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("", "198.51.100.7", None),
        (None, "198.51.100.7", None),
    ],
)
def test_only_a_trusted_proxy_says_who_called(peer, forwarded, address):
    """The right-most address of X-Forwarded-For that is no trusted proxy, if the peer is one."""
    assert remote_address(peer, forwarded, PROXIES) == address


def test_without_trusted_proxies_the_peer_called():
    """The default."""
    assert remote_address("10.0.0.1", "198.51.100.7", ()) == "10.0.0.1"
