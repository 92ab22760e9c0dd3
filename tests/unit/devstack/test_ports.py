"""devstack/ports.py"""

import socket

import pytest

from devstack.ports import free_ports, require_free
from notification.errors import SettingsError


def test_free_ports_are_different_and_below_the_range_of_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_free_port_passes() -> None:
    require_free("127.0.0.1", free_ports(1)[0], "the gateway", "gateway_port")


def test_a_port_that_was_just_left_passes() -> None:
    port = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)):
        server.accept()[0].close()  # leaves the port in TIME_WAIT
    require_free("127.0.0.1", port, "the gateway", "gateway_port")


def test_an_address_that_is_not_ours_is_told_apart_from_a_taken_port() -> None:
    with pytest.raises(SettingsError, match="cannot assign requested address") as caught:
        require_free("192.0.2.1", 1234, "the gateway", "gateway_port")
    assert "taken" not in str(caught.value)
