# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Network devices, and how TCP behaves on this machine."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from .procfs import devices, inet6_devices, number, read
from .report import Check

_SIOCGIFADDR = 0x8915
_UP = 0x1


@dataclass(frozen=True, slots=True)
class Device:
    """A network device. `mbit_per_s` is None where the kernel does not know."""

    name: str
    up: bool
    loopback: bool
    addresses: tuple[str, ...]
    mtu: int | None
    mbit_per_s: int | None

    @property
    def reaches_others(self) -> bool:
        """Other hosts can be reached over it."""
        return self.up and not self.loopback and bool(self.addresses)


def list_devices() -> list[Device]:
    """The devices of this network namespace."""
    v6 = inet6_devices(read("/proc/net/if_inet6"))
    found = []
    for name in devices():
        folder = Path("/sys/class/net") / name
        speed = number(read(folder / "speed"))
        v4 = ipv4_address(name)
        addresses = [str(v4)] if v4 is not None else []
        addresses += [str(address) for address, device in v6.items() if device == name and not address.is_link_local]
        found.append(
            Device(
                name=name,
                up=bool(int(read(folder / "flags") or "0", 16) & _UP),
                loopback=read(folder / "type") == "772",
                addresses=tuple(addresses),
                mtu=number(read(folder / "mtu")),
                mbit_per_s=speed if speed is not None and speed > 0 else None,
            )
        )
    return found


def ipv4_address(device: str) -> IPv4Address | None:
    """The device's first IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("16s240x", device.encode()[:15]))
        except OSError:
            return None
    return IPv4Address(answer[20:24])


def device_of(address: IPv4Address | IPv6Address) -> str:
    """The device that has this address; "every interface" for a wildcard, "" if none has it."""
    plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    if plain.is_unspecified:
        return "every interface"
    return next((device.name for device in list_devices() if str(plain) in device.addresses), "")


def check_devices() -> Check:
    """The devices that engines could listen on."""
    found = list_devices()
    facts: dict[str, object] = {"devices": [asdict(device) for device in found]}
    usable = [device for device in found if device.up and device.addresses]
    summary = "; ".join(f"{one.name} {', '.join(one.addresses)} mtu {one.mtu}" for one in usable) or "none is up"
    if not any(device.reaches_others for device in found):
        remedy = "bring a device up to use engines on several hosts; in Docker `--network host`, or attach a network"
        return Check("network_devices", "warning", f"{summary}: other hosts cannot be reached", remedy, facts)
    return Check("network_devices", "ok", summary, facts=facts)


def check_tcp() -> Check:
    """Congestion control and buffers: they bound what the message lane reaches."""
    folder = Path("/proc/sys/net")
    available = read(folder / "ipv4/tcp_available_congestion_control").split()
    facts: dict[str, object] = {
        "congestion_control": read(folder / "ipv4/tcp_congestion_control") or None,
        "available": available,
        "receive_bytes_max": _last(read(folder / "ipv4/tcp_rmem")),
        "send_bytes_max": _last(read(folder / "ipv4/tcp_wmem")),
    }
    summary = (
        f"congestion control {facts['congestion_control']} (there are: {', '.join(available)}), "
        f"buffers up to {facts['receive_bytes_max']} bytes to receive, {facts['send_bytes_max']} to send"
    )
    return Check("tcp", "ok", summary, facts=facts)


def _last(triple: str) -> int | None:
    return number(triple.rsplit(maxsplit=1)[-1]) if triple else None
