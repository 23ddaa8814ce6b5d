"""What this machine is, under the names Chef gives its automatic attributes."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import socket
import threading
from pathlib import Path
from typing import Any

NAME_SERVER_SECONDS = 1.0
"""How long the name server is waited for when the host's name has no domain."""

_FAMILIES = {"debian": "debian", "ubuntu": "debian", "rhel": "rhel", "fedora": "fedora"}


def collect() -> dict[str, Any]:
    """Return the facts of this machine, as they are now.

    Takes a few milliseconds and starts no process. A fact that cannot be found
    out is left out.
    """
    name = os.uname()
    facts: dict[str, Any] = {
        "hostname": name.nodename.partition(".")[0],
        "machinename": name.nodename,
        "fqdn": _fully_qualified_name(),
        "os": name.sysname.lower(),
        "os_version": name.release,
        "kernel": {
            "name": name.sysname,
            "release": name.release,
            "version": name.version,
            "machine": name.machine,
            "os": "GNU/Linux" if name.sysname == "Linux" else name.sysname,
        },
        "cpu": {"total": os.cpu_count() or 1},
        "languages": {"python": {"version": platform.python_version()}},
        **_distribution(),
    }
    if domain := facts["fqdn"].partition(".")[2]:
        facts["domain"] = domain
    if memory := _memory():
        facts["memory"] = memory
    facts.update(_network())
    return facts


@functools.cache
def _fully_qualified_name() -> str:
    """Return the full host name, asked once; a name server that is silent must not hold us up."""
    short = socket.gethostname()
    if "." in short:
        return short
    found: list[str] = []
    asking = threading.Thread(
        target=lambda: found.append(socket.getfqdn()), name="flock-fqdn", daemon=True
    )
    asking.start()
    asking.join(NAME_SERVER_SECONDS)
    # What a hosts file says that gives this machine's name to the loopback address.
    is_loopback = not found or found[0].partition(".")[0] == "localhost"
    return short if is_loopback else found[0]


def _distribution() -> dict[str, Any]:
    """Return platform, its version and family, and what Chef has below `lsb`."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return {"platform": platform.system().lower(), "platform_version": platform.release()}
    identity = release.get("ID", "linux")
    near = [identity, *release.get("ID_LIKE", "").split()]
    family = next((_FAMILIES[each] for each in near if each in _FAMILIES), identity)
    return {
        "platform": identity,
        "platform_version": release.get("VERSION_ID") or _rolling_version(release),
        "platform_family": family,
        "lsb": {
            key: release[source]
            for key, source in (
                ("id", "NAME"),
                ("release", "VERSION_ID"),
                ("codename", "VERSION_CODENAME"),
            )
            if source in release
        },
    }


def _rolling_version(release: dict[str, str]) -> str:
    """Name the state of a distribution that has no version: `forky/sid`, `rolling`."""
    with contextlib.suppress(OSError):
        return Path("/etc/debian_version").read_text(encoding="utf-8").strip()
    return release.get("BUILD_ID", "")


def _memory() -> dict[str, Any]:
    """Return sizes as Chef gives them: texts like `2048000kB`."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    parts = (line.partition(":") for line in lines)
    sizes = {key: rest.split()[0] + "kB" for key, _, rest in parts}
    return {
        "total": sizes["MemTotal"],
        "free": sizes["MemFree"],
        "available": sizes["MemAvailable"],
        "swap": {"total": sizes["SwapTotal"], "free": sizes["SwapFree"]},
    }


def _network() -> dict[str, Any]:
    """Return the interfaces, and the addresses of the one that leads out."""
    import psutil

    interfaces: dict[str, Any] = {}
    hardware = psutil.AF_LINK
    for name, addresses in psutil.net_if_addrs().items():
        interfaces[name] = {
            "addresses": {
                address.address.partition("%")[0]: {"family": family}
                for address in addresses
                if (
                    family := {
                        socket.AF_INET: "inet",
                        socket.AF_INET6: "inet6",
                        hardware: "lladdr",
                    }.get(address.family)
                )
            }
        }
    found: dict[str, Any] = {"network": {"interfaces": interfaces}}
    if leading := _leading_interface():
        found["network"]["default_interface"] = leading
    order = sorted(interfaces, key=lambda name: (name != leading, name == "lo", name))
    for name in order:
        for address, about in interfaces[name]["addresses"].items():
            key = {"inet": "ipaddress", "inet6": "ip6address", "lladdr": "macaddress"}
            found.setdefault(key[about["family"]], address)
    return found


def _leading_interface() -> str | None:
    """Return the interface of the default route, None if there is none."""
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    routes = [line.split() for line in lines]
    defaults = [each for each in routes if each[1] == "00000000"]
    return min(defaults, key=lambda each: int(each[6]))[0] if defaults else None
