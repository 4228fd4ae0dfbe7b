"""Ethernet frames and what is in them, as a container with CAP_NET_RAW can make them."""

from __future__ import annotations

import struct

from lamina.network.subnet import packed

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD


def checksum(data: bytes) -> int:
    total: int = sum(
        struct.unpack(f"!{len(data) // 2}H", data + bytes(len(data) % 2) if len(data) % 2 else data)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp4(source: str, target: str, payload: bytes = b"boo", port: int = 9) -> bytes:
    body = struct.pack("!HHHH", 1000, port, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, packed(source), packed(target)
    )
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def frame(to: bytes, source: bytes, kind: int, content: bytes) -> bytes:
    return to + source + struct.pack("!H", kind) + content
