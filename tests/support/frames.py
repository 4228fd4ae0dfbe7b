"""Ethernet frames and what is in them, as a container with CAP_NET_RAW can make them."""

from __future__ import annotations

import struct

from lamina.network.subnet import packed

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD


def checksum(data: bytes) -> int:
    even = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
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


def _ipv6(source: bytes, target: bytes, kind: int, body: bytes, headers: bytes = b"") -> bytes:
    """With extension headers, the first of which is of *kind* then, before *body*."""
    length = len(headers) + len(body)
    return struct.pack("!IHBB", 0x60000000, length, kind, 255) + source + target + headers + body


def _summed(source: bytes, target: bytes, kind: int, head: bytes, rest: bytes) -> bytes:
    """*head* and *rest* with the sum between them, as UDP and ICMPv6 have it."""
    length = len(head) + 2 + len(rest)
    pseudo = source + target + struct.pack("!II", length, kind)
    return head + struct.pack("!H", checksum(pseudo + head + bytes(2) + rest)) + rest


def icmpv6(source: bytes, target: bytes, kind: int, rest: bytes) -> bytes:
    return _ipv6(source, target, 58, _summed(source, target, 58, struct.pack("!BB", kind, 0), rest))


# extension headers by their numbers (RFC 8200), each of 8 bytes, without the first, which says what follows
ROUTER_ALERT = (0, b"\x00\x05\x02\x00\x00\x01\x00")
NOTHING_PER_HOP, NOTHING_FOR_TARGET = (0, b"\x00\x01\x04" + bytes(4)), (60, b"\x00\x01\x04" + bytes(4))
NO_MORE_ROUTE = (43, b"\x00\x04" + bytes(5))
WHOLE_FRAGMENT = (44, bytes(3) + b"abcd")


def disguised(packet: bytes, *headers: tuple[int, bytes]) -> bytes:
    """The IPv6 *packet* with extension headers before what is in it."""
    kinds = [kind for kind, _ in headers] + [packet[6]]
    chain = b"".join(bytes([kinds[number + 1]]) + rest for number, (_, rest) in enumerate(headers))
    return _ipv6(packet[8:24], packet[24:40], kinds[0], packet[40:], chain)


def udp6(source: str, target: str, payload: bytes = b"boo", port: int = 9) -> bytes:
    own, other = packed(source), packed(target)
    head = struct.pack("!HHH", 1000, port, 8 + len(payload))
    return _ipv6(own, other, 17, _summed(own, other, 17, head, payload))


def fragments(packet: bytes, first: int) -> list[bytes]:
    """The packet, of IPv4 or IPv6, in two: *first* bytes of what is in it, a multiple of 8, and the rest."""
    if packet[0] >> 4 == 6:
        kind, body = packet[6], packet[40:]
        return [
            _ipv6(packet[8:24], packet[24:40], 44, part, struct.pack("!BBHI", kind, 0, place, 77))
            for place, part in ((1, body[:first]), (first, body[first:]))
        ]
    body = packet[20:]
    found = []
    for place, part in ((0x2000, body[:first]), (first // 8, body[first:])):
        head = (
            packet[:2]
            + struct.pack("!HHH", 20 + len(part), 77, place)
            + packet[8:10]
            + bytes(2)
            + packet[12:20]
        )
        found.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + part)
    return found
