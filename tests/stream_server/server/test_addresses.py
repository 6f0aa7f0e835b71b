"""What a server listens on: real sockets, and a real server behind them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stream_server.errors import ConfigError
from stream_server.server.addresses import BACKLOG, Addresses, listen, notify
from tests.conftest import START_TIMEOUT, WAIT

ACTIVATE = """
import os, socket, sys
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "stream_server", *sys.argv[1:]])
"""
"""Does what systemd does: listens, and starts the server with the socket as descriptor 3."""


class UnixHTTP(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT)
        self.sock.connect(self.path)


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=WAIT) as response:
        return json.load(response)


def reachable(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family) as client:
        client.settimeout(WAIT)
        return client.connect_ex((address, port)) == 0


class TestTCP:
    def test_every_interface_of_both_families(self) -> None:
        if not socket.has_dualstack_ipv6():
            pytest.skip("this machine has no IPv6")
        addresses = listen("*", 0)
        port = int(addresses.url.rpartition(":")[2])
        assert addresses.url == f"http://127.0.0.1:{port}"
        assert reachable(socket.AF_INET, "127.0.0.1", port)
        assert reachable(socket.AF_INET6, "::1", port)
        addresses.close()
        assert not reachable(socket.AF_INET, "127.0.0.1", port)

    def test_the_addresses_of_a_name_have_one_free_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        addresses = listen("name", 0)
        names = [sock.getsockname() for sock in addresses.sockets]
        assert [name for name, _ in names] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in names}) == 1
        addresses.close()

    def test_addresses_that_the_machine_lacks_are_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))]
        resolved = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
        addresses = listen("both", 0)
        assert addresses.url.startswith("http://127.0.0.1:")
        addresses.close()
        resolved.pop()
        with pytest.raises(ConfigError, match="cannot listen on neither"):
            listen("neither", 0)

    def test_a_port_in_use_is_said(self) -> None:
        addresses = listen("127.0.0.1", 0)
        port = addresses.sockets[0].getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"127.0.0.1 port {port}: Address already in use; choose another"
        ):
            listen("127.0.0.1", port)
        addresses.close()

    def test_an_unknown_name_is_said(self) -> None:
        with pytest.raises(ConfigError, match=r"cannot listen on name\.invalid port 0"):
            listen("name.invalid", 0)


class TestUnix:
    def test_the_file_is_there_until_it_is_closed(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        addresses = listen(f"unix:{path}", 0)
        assert addresses.url == f"unix:{path}"
        assert path.is_socket()
        addresses.close()
        assert not path.exists()

    def test_a_server_that_drains_leaves_its_successors_file(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        command = [sys.executable, "-m", "stream_server", "serve", "--model=echo", "--workers=1"]
        command.append(f"--host=unix:{path}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            assert "ready" in server.stdout.readline()
            client = UnixHTTP(str(path))
            client.connect()  # and asks for nothing: the end of the server waits for no such connection
            server.send_signal(signal.SIGTERM)
            while path.exists():
                assert server.poll() is None or not path.exists()
            successor = listen(f"unix:{path}", 0)
            assert server.wait(START_TIMEOUT) == 0
            client.close()
        assert path.is_socket()
        successor.close()

    def test_what_an_ended_server_left_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        listen(f"unix:{path}", 0).close()

    def test_a_socket_in_use_is_not_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        addresses = listen(f"unix:{path}", 0)
        with pytest.raises(ConfigError, match="a server listens on it; choose another path"):
            listen(f"unix:{path}", 0)
        assert path.is_socket()
        addresses.close()

    def test_a_file_is_not_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("kept")
        with pytest.raises(ConfigError, match="there is a file of that name"):
            listen(f"unix:{path}", 0)
        assert path.read_text() == "kept"

    @pytest.mark.parametrize("name", ["", "/proc/none/socket", "x" * 200, "nul\0"])
    def test_an_impossible_path_is_said(self, name: str) -> None:
        with pytest.raises(ConfigError, match="cannot listen on unix:"):
            listen(f"unix:{name}", 0)

    def test_a_server_answers_and_removes_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        command = [sys.executable, "-m", "stream_server", "serve", "--model=echo", "--workers=1"]
        with subprocess.Popen([*command, f"--host=unix:{path}"], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            assert f"ready at unix:{path}" in server.stdout.readline()
            client = UnixHTTP(str(path))
            client.request("GET", "/v2/health/ready")
            assert json.load(client.getresponse())["ready"] is True
            client.close()
            server.send_signal(signal.SIGTERM)
            assert server.wait(START_TIMEOUT) == 0
        assert not path.exists()


class TestSystemd:
    def test_a_socket_that_is_handed_over_is_used(self) -> None:
        arguments = ["serve", "--model=echo", "--workers=1", "--port=1"]  # port 1 would be refused or wrong
        command = [sys.executable, "-c", ACTIVATE, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            port = int(server.stdout.readline())
            assert f"ready at http://127.0.0.1:{port}" in server.stdout.readline()
            assert get(f"http://127.0.0.1:{port}/v2/health/live") == {"live": True}
            server.send_signal(signal.SIGTERM)
            assert server.wait(START_TIMEOUT) == 0

    def test_sockets_for_another_process_are_not_taken(self) -> None:
        environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
        addresses = listen("127.0.0.1", 0, environ)
        assert environ, "they are not for this process, and neither are the variables"
        addresses.close()

    def test_a_descriptor_that_is_not_a_socket_is_said(self) -> None:
        environ = {"LISTEN_FDS": str(1 << 10), "LISTEN_PID": str(os.getpid())}
        with pytest.raises(ConfigError, match="is not a socket"):
            listen("127.0.0.1", 0, environ)

    def test_it_is_told_when_the_server_is_ready(self, tmp_path: Path) -> None:
        path = tmp_path / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(path))
            manager.settimeout(WAIT)
            notify("READY=1", {"NOTIFY_SOCKET": str(path)})
            assert manager.recv(100) == b"READY=1"
        notify("READY=1", {"NOTIFY_SOCKET": str(path)})  # it has gone
        notify("READY=1", {})


def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    addresses: Addresses = listen(f"unix:{tmp_path / 'socket'}", 0)
    addresses.close()
    addresses.close()
    assert BACKLOG >= 1000
