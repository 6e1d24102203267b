"""Machines for the tests of a cluster: network namespaces of Linux, each with an address of its own, or with none.

What runs in one sees the files of this machine but not its network. To make them is a right that few have: without it,
what needs them is skipped.
"""

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass

import pytest

_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    address: str
    command: tuple = ()  # what makes a command run there
    link: tuple = ()  # how its cable is named

    def cut_off(self):
        """Take its cable out, for good."""
        _ip(*self.link, "down")


LOOPBACK = Host("127.0.0.1")


@functools.cache
def can_be_made():
    """Tell whether this user may make namespaces here."""
    try:
        with alone():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def alone():
    """Give a host without any network but its own loopback."""
    with _namespace() as name:
        yield _host(name, "127.0.0.1")


@contextlib.contextmanager
def connected(number):
    """Give hosts that reach each other and nobody else; the first is the one that the others are plugged into."""
    with contextlib.ExitStack() as stack:
        hub, *others = [stack.enter_context(_namespace()) for _ in range(number)]
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "address", "add", "192.0.2.1/24", "dev", "bridge")  # RFC 5737: of nobody
        _ip("-n", hub, "link", "set", "bridge", "up")
        hosts = [_host(hub, "192.0.2.1")]
        for i, name in enumerate(others, start=2):
            cable = f"cable{i}"
            _ip("-n", hub, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", cable, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"192.0.2.{i}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            hosts.append(_host(name, f"192.0.2.{i}", link=("-n", hub, "link", "set", cable)))
        yield hosts


def need():
    """Skip a test where no host can be made."""
    if not can_be_made():
        pytest.skip("this user may make no network namespace here (ip netns add)")


def _host(name, address, link=()):
    return Host(address, (shutil.which("ip"), "netns", "exec", name), link)


@contextlib.contextmanager
def _namespace():
    name = f"medspark-{os.getpid()}-{next(_numbers)}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments):
    subprocess.run(("ip", *arguments), check=True, capture_output=True)  # noqa: S607
