"""Internet addresses and subnets as values, without the price of importing `ipaddress`. Addresses are packed bytes."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from lamina.errors import InvalidInput
from lamina.values import value


def packed(text: str, what: str = "address") -> bytes:
    """The address in 4 or 16 bytes, network order. Raises InvalidInput, in which *what* says what it was to be."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        raise InvalidInput(
            f"{what} {text!r}: not an address", remedy="such as 10.1.0.5 or fd00:1::5"
        ) from None


def text_of(address: bytes) -> str:
    """The address as people write it."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


@value
class Subnet:
    """The addresses from `base` (packed) on that have their first `prefix` bits in common."""

    base: bytes
    prefix: int

    @property
    def bits(self) -> int:
        """Of an address: 32 or 128."""
        return len(self.base) * 8

    @property
    def first(self) -> int:
        """Its first address, as a number."""
        return int.from_bytes(self.base, "big")

    @property
    def last(self) -> int:
        """Its last address, as a number."""
        return self.first | (1 << self.bits - self.prefix) - 1

    def packed(self, number: int) -> bytes:
        """The address *number* in bytes."""
        return number.to_bytes(len(self.base), "big")

    @property
    def end(self) -> bytes:
        """The first address behind it; b"" at the end of all."""
        behind = self.last + 1
        return b"" if behind >> self.bits else self.packed(behind)

    def has(self, address: bytes) -> bool:
        """Whether the packed *address* is one of it."""
        return len(address) == len(self.base) and self.first <= int.from_bytes(address, "big") <= self.last

    def within(self, other: Subnet) -> bool:
        """Whether it is a part of *other*, or the same."""
        return len(self.base) == len(other.base) and other.first <= self.first and self.last <= other.last

    def overlaps(self, other: Subnet) -> bool:
        """Whether an address belongs to both."""
        return len(self.base) == len(other.base) and self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        return f"{text_of(self.base)}/{self.prefix}"


def read_subnet(text: str, what: str = "subnet") -> Subnet:
    """ADDRESS/PREFIX; what is behind the prefix must be 0, as docker wants it. Raises InvalidInput."""
    address, slash, length = text.partition("/")
    base = packed(address, what)
    if not slash or not (length.isascii() and length.isdigit()) or int(length) > len(base) * 8:
        raise InvalidInput(
            f"{what} {text!r}: not ADDRESS/PREFIX", remedy="such as 10.1.0.0/24 or fd00:1::/64"
        )
    found = subnet_of(base, int(length))
    if found.base != base:
        raise InvalidInput(
            f"{what} {text}: it has bits behind its prefix", remedy=f"you probably mean {found}"
        )
    return found


def subnet_of(address: bytes, prefix: int) -> Subnet:
    """The subnet of that size in which the packed *address* lies."""
    bits = len(address) * 8
    number = int.from_bytes(address, "big") >> (bits - prefix) << (bits - prefix)
    return Subnet(number.to_bytes(len(address), "big"), prefix)
