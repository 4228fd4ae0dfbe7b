"""Archives as other programs and other centuries wrote them, and what is refused."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest

from lamina.errors import Corrupt, InvalidInput, Unsupported
from lamina.image.tar import Entry, Limits, entries
from lamina.image.tar.limits import given
from support.archives import (
    BLOCK,
    END,
    archive,
    block,
    chunks,
    device,
    directory,
    file,
    hard_link,
    long_name,
    padded,
    pax,
    read,
    record,
    symlink,
)  # fmt: skip

OLD_GNU = b"ustar  \0"


def only(data: bytes) -> Entry:
    [(entry, _)] = read(data)
    return entry


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 1 << 20])
def test_content_arrives_whole_whatever_the_chunks(size: int) -> None:
    parts = [file(b"a", b"x" * n) for n in (0, 1, 511, 512, 513, 5000)]
    found = read(archive(*parts), size=size)
    assert [len(content) for _, content in found] == [0, 1, 511, 512, 513, 5000]


def test_content_that_nobody_reads_is_passed_over() -> None:
    data = archive(file(b"a", b"x" * 3000), file(b"b", b"y"))
    assert [entry.name for entry in entries(chunks(data, 100))] == [b"a", b"b"]


@pytest.mark.parametrize("size", [1, 512, 700, 1 << 14, 1 << 20])
def test_content_that_nobody_reads_need_not_be_given(size: int) -> None:
    """As of an archive in a file, of which only the headers are read."""
    parts = [file(b"%d" % n, b"x" * n) for n in (0, 1, 511, 512, 513, 5000, 70_000)]
    data = archive(*parts, long_name(b"n" * 300), file(b"last", b"y" * 900))
    stream, given = io.BytesIO(data), 0

    def chunk() -> bytes:
        nonlocal given
        found = stream.read(size)
        given += len(found)
        return found

    def skipping(count: int) -> int:
        before = stream.tell()
        stream.seek(min(before + count, len(data)))
        return stream.tell() - before

    plain = [(entry.name, entry.size, entry.offset) for entry, _ in read(data)]
    assert [(entry.name, entry.size, entry.offset) for entry in entries(chunk, skip=skipping)] == plain
    if size < 70_000:
        assert given < len(data) - 40_000, "content was not passed over"
    data = data[: plain[6][2] + 1000]
    stream = io.BytesIO(data)
    with pytest.raises(Corrupt, match=f"after {len(data)} bytes"):
        list(entries(chunk, skip=skipping))


def test_the_kinds() -> None:
    found = [
        entry
        for entry, _ in read(
            archive(
                file(b"f"), directory(b"d"), symlink(b"s", b"../x"), hard_link(b"l", b"f"), device(b"c", "char", 1, 3),
                device(b"b", "block", 8, 0), block(b"p", b"6"), block(b"old", b"\0"), block(b"olddir/", b"\0"),
                block(b"contiguous", b"7"),
            )
        )
    ]  # fmt: skip
    assert [entry.kind for entry in found] == [
        "file", "directory", "symlink", "link", "char", "block", "fifo", "file", "directory", "file",
    ]  # fmt: skip
    assert found[2].target == b"../x" and found[3].target == b"f"
    assert found[4].device == (1, 3) and found[5].device == (8, 0)


def test_links_and_directories_have_no_content_whatever_their_size_says() -> None:
    names = [entry.name for entry, _ in read(archive(block(b"s", b"2", link=b"x", size=512), file(b"next")))]
    assert names == [b"s", b"next"]


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"  644 \0", 0o644),
        (b"\0 644\0", 0o644),
        (b"644", 0o644),
        (b"00000644", 0o644),
        (b"", 0),
        (b"       \0", 0),
        (b"\x80\0\0\0\0\0\x01\xa4", 0o644),
    ],
)
def test_numbers_in_all_their_forms(field: bytes, number: int) -> None:
    assert only(archive(block(uid=field))).uid == number


def test_large_and_negative_numbers_in_base_256() -> None:
    assert only(archive(block(mtime=b"\x80" + (1 << 40).to_bytes(11, "big")))).mtime_ns == (1 << 40) * 10**9
    assert only(archive(block(mtime=(-5).to_bytes(12, "big", signed=True)))).mtime_ns == -5 * 10**9


@pytest.mark.parametrize(
    "field", [b"+000644", b"-000644", b"0o644", b"1_0", b"9", b"abc", b"64 4", b"\xc3\xa9"]
)
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(archive(block(uid=field)))


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\xc0" + bytes(11)])
def test_sizes_that_cannot_be(size: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(archive(block(size=size)))


@pytest.mark.parametrize("field", ["uid", "gid"])
def test_ids_that_cannot_be(field: str) -> None:
    for number in (b"\x80\0\0\0\xff\xff\xff\xff", b"\x80\0\0\1\0\0\0\0", b"\xff" * 8):
        with pytest.raises(InvalidInput):
            read(archive(block(**{field: number})))  # type: ignore[arg-type]


def test_a_prefix_is_ustars_only() -> None:
    assert only(archive(block(b"b", prefix=b"a"))).name == b"a/b"
    assert only(archive(block(b"b", prefix=b"\0" * 41, magic=OLD_GNU))).name == b"b"
    # as times, which GNU tar keeps there
    assert only(archive(block(b"b", prefix=b"14301234567\x0014301234567\0", magic=OLD_GNU))).name == b"b"
    # as Go wrote them before 1.8
    assert only(archive(block(b"b", prefix=b"usr/share", magic=OLD_GNU))).name == b"usr/share/b"
    assert only(archive(block(b"b", prefix=b"a", magic=bytes(8)))).name == b"b"


def test_checksums() -> None:
    good = block(b"\xe9t\xe9")
    signed = sum(b - 256 if b > 127 else b for b in good[:148] + good[156:]) + 256
    assert only(archive(block(b"\xe9t\xe9", checksum=signed))).name == b"\xe9t\xe9"
    with pytest.raises(InvalidInput, match="checksum"):
        read(archive(block(checksum=1)))


# -- the end


def test_where_an_archive_ends() -> None:
    assert len(read(file(b"a") + END + b"rubbish" * 1000)) == 1
    assert len(read(file(b"a"))) == 1  # some leave the end out
    assert len(read(file(b"a") + bytes(BLOCK))) == 1
    assert read(b"") == []
    with pytest.raises(InvalidInput):
        read(file(b"a") + bytes(BLOCK) + file(b"b") + END)


@pytest.mark.parametrize("length", [1, 100, 512, 513, 700, 1023])
def test_an_archive_that_is_cut_off(length: int) -> None:
    data = file(b"a", b"x" * 600)[:length]
    if length == 512 + 600:
        return
    with pytest.raises(Corrupt):
        read(data)


def test_extension_headers_of_nothing() -> None:
    for extension in (pax((b"path", b"x")), long_name(b"x" * 200)):
        with pytest.raises(Corrupt):
            read(extension + END)
        with pytest.raises(Corrupt):
            read(extension)


# -- longer names, pax


def test_gnu_long_names() -> None:
    name, target = b"d/" * 100 + b"x", b"t" * 300
    entry = only(archive(long_name(name), long_name(target, b"K"), symlink(b"short", b"short")))
    assert (entry.name, entry.target) == (name, target)
    with pytest.raises(InvalidInput):
        read(archive(long_name(name), long_name(name), file(b"x")))
    with pytest.raises(InvalidInput):
        read(archive(long_name(name), pax((b"path", b"another")), file(b"x")))


def test_pax_overrides() -> None:
    entry, content = read(
        archive(
            pax(
                (b"path", b"p/q"), (b"size", b"3"), (b"uid", b"3000000"), (b"gid", b"4000000"),
                (b"mtime", b"1350244992.023960108"), (b"atime", b"1"), (b"comment", b"none\nof=it"),
                (b"SCHILY.xattr.user.a", b"\0\xff\n="), (b"VENDOR.thing", b"1"),
            ),
            block(b"short", size=0) + padded(b"abc"),
        )
    )[0]  # fmt: skip
    assert (entry.name, entry.uid, entry.gid, content) == (b"p/q", 3_000_000, 4_000_000, b"abc")
    assert entry.mtime_ns == 1_350_244_992_023_960_108
    assert entry.xattrs == {"user.a": b"\0\xff\n="}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [(b"0", 0), (b"1.5", 1_500_000_000), (b"-1.5", -1_500_000_000), (b".5", 500_000_000), (b"7.", 7_000_000_000),
     (b"1.0000000019", 1_000_000_001), (b"-1.0000000011", -1_000_000_002)],
)  # fmt: skip
def test_times_in_pax(text: bytes, nanoseconds: int) -> None:
    assert only(archive(pax((b"mtime", text)), file(b"x"))).mtime_ns == nanoseconds


@pytest.mark.parametrize("text", [b".", b"-", b"1e3", b"1_0", b" 1", b"inf", b"1.-5", b"9" * 30])
def test_what_is_no_time(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(archive(pax((b"mtime", text)), file(b"x")))


def test_attributes_as_libarchive_writes_them() -> None:
    value = base64.b64encode(b"\0binary").rstrip(b"=")
    entry = only(archive(pax((b"LIBARCHIVE.xattr.user.sp%20ace", value)), file(b"x")))
    assert entry.xattrs == {"user.sp ace": b"\0binary"}
    with pytest.raises(InvalidInput):
        read(archive(pax((b"LIBARCHIVE.xattr.user.a", b"!!!")), file(b"x")))


def test_attributes_whose_names_gnu_tar_encodes() -> None:
    entry = only(archive(pax((b"SCHILY.xattr.user.a%3Db%25", b"1")), file(b"x")))
    assert entry.xattrs == {"user.a=b%": b"1"}


def test_global_headers_hold_until_they_are_taken_back() -> None:
    found = read(
        archive(
            pax((b"uid", b"7"), (b"comment", b"abc"), flag=b"g"), file(b"a"), pax((b"uid", b"8")), file(b"b"),
            pax((b"uid", b""), flag=b"g"), file(b"c", uid=5), pax((b"gid", b"6"), flag=b"g"), pax((b"gid", b"")),
            file(b"d", gid=4),
        )
    )  # fmt: skip
    assert [(entry.uid, entry.gid) for entry, _ in found] == [(7, 0), (8, 0), (5, 0), (0, 4)]


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"size", b"GNU.sparse.map", b"SCHILY.xattr.user.a"])
def test_what_no_global_header_can_say(key: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(archive(pax((key, b"1"), flag=b"g"), file(b"a")))


@pytest.mark.parametrize(
    "data",
    [
        b"5 a=b\n",
        b"7 a=b\n",
        b"a=b\n",
        b"-6 a=b\n",
        b"0 a=b\n",
        b"6 ab\n\n",
        b"6 a=b.",
        b"6 =bb\n",
        b"99999999999999999999 a=b\n",
    ],
)
def test_malformed_pax(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(archive(block(b"x", b"x", size=len(data)) + padded(data), file(b"a")))


def test_two_extension_headers_for_one_entry() -> None:
    with pytest.raises(InvalidInput):
        read(archive(pax((b"path", b"a")), pax((b"path", b"b")), file(b"x")))


def test_a_nul_in_a_name() -> None:
    for key in (b"path", b"linkpath"):
        with pytest.raises(InvalidInput):
            read(archive(pax((key, b"a\0b")), symlink(b"x", b"y")))


# -- sparse files


def test_old_gnu_sparse_with_more_headers() -> None:
    pieces = [(i * 10_000, 100) for i in range(30)]
    fields = [b"%011o\0%011o\0" % piece for piece in pieces]
    first = bytearray(block(b"s", b"S", size=3000, magic=OLD_GNU))
    first[386 : 386 + 96] = b"".join(fields[:4])
    first[482] = 1
    first[483:495] = b"%011o\0" % 1_000_000
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    second = b"".join(fields[4:25]) + b"\1" + bytes(7)
    third = (b"".join(fields[25:])).ljust(504, b"\0") + bytes(8)
    entry, content = read(archive(bytes(first), second, third, padded(b"d" * 3000)))[0]
    assert (entry.size, entry.sparse, len(content)) == (1_000_000, pieces, 3000)


def sparse_of(*records: tuple[bytes, bytes], content: bytes) -> bytes:
    return archive(pax(*records), file(b"GNUSparseFile.1/s", content), file(b"next"))


@pytest.mark.parametrize(
    "data",
    [
        sparse_of(
            (b"GNU.sparse.size", b"1000"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.offset", b"10"),
            (b"GNU.sparse.numbytes", b"2"), (b"GNU.sparse.offset", b"500"), (b"GNU.sparse.numbytes", b"3"),
            (b"path", b"s"), content=b"abcde",
        ),
        sparse_of(
            (b"GNU.sparse.size", b"1000"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"10,2,500,3"),
            (b"GNU.sparse.name", b"s"), content=b"abcde",
        ),
        sparse_of(
            (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"1000"),
            (b"GNU.sparse.name", b"s"), content=padded(b"2\n10\n2\n500\n3\n") + b"abcde",
        ),
    ],
    ids=["0.0", "0.1", "1.0"],
)  # fmt: skip
def test_sparse_in_pax(data: bytes) -> None:
    found = read(data)
    entry, content = found[0]
    assert (entry.name, entry.size, entry.sparse, content) == (b"s", 1000, [(10, 2), (500, 3)], b"abcde")
    assert found[1][0].name == b"next"


@pytest.mark.parametrize(
    "numbers",
    [
        b"10,2,5,3",
        b"0,3,2,2",
        b"10,2,999,3",
        b"10,2",
        b"0,9",
        b"1,2,3",
        b"",
        b"0,-5",
        b"a,b",
        b"18446744073709551615,5",
    ],
)
def test_sparse_maps_that_lie(numbers: bytes) -> None:
    data = sparse_of(
        (b"GNU.sparse.size", b"1000"),
        (b"GNU.sparse.map", numbers),
        (b"GNU.sparse.name", b"s"),
        content=b"abcde",
    )
    with pytest.raises(InvalidInput):
        read(data)


def test_sparse_1_0_whose_map_does_not_end() -> None:
    said = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"))
    for content in (b"1" * 600, b"5\n1\n", b"99999999999\n", b"\n\n\n"):
        with pytest.raises((InvalidInput, Corrupt)):
            read(sparse_of(*said, content=content))
    with pytest.raises(Unsupported):
        read(sparse_of((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), content=b""))


# -- limits, and what is no file


def test_each_limit() -> None:
    many = archive(*[file(b"f%d" % i) for i in range(11)])
    cases = [
        (many, Limits(entries=10), "entries=N"),
        (archive(file(b"a", b"x" * 600)), Limits(size=599), "size=N"),
        (archive(pax((b"path", b"x" * 2000)), file(b"a")), Limits(extensions=2000), "extensions=N"),
        (archive(pax((b"path", b"x" * 2000)), file(b"a")), Limits(name=1999), "name=N"),
        (archive(long_name(b"x" * 2000, b"K"), symlink(b"a", b"b")), Limits(name=1999), "name=N"),
        (
            sparse_of((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1,2,1,4,1"), content=b"abc"),
            Limits(segments=2),
            "segments=N",
        ),
    ]
    for data, limits, option in cases:
        with pytest.raises(InvalidInput, match=option):
            read(data, limits)
        read(data)


def test_global_headers_cost_the_entries_nothing() -> None:
    """Of ten thousand keys that mean nothing none is kept, or each entry would look at all of them."""
    from lamina.image.tar.reader import _Reader
    from lamina.image.tar.source import Source
    from support.archives import chunks

    parts = [pax(*[(b"k%d.%d" % (n, m), b"x") for m in range(100)], flag=b"g") for n in range(100)]
    reader = _Reader(Source(chunks(archive(*parts, pax((b"uid", b"7"), flag=b"g"), file(b"a")))), Limits())
    assert [entry.uid for entry in reader.run()] == [7]
    assert reader.of_all == {b"uid": b"7"}


def test_entries_that_are_no_files() -> None:
    assert [entry.name for entry, _ in read(archive(block(b"label", b"V"), file(b"a")))] == [b"a"]
    assert (
        read(archive(block(b"d", b"D", size=9) + padded(b"Yfile\0\0"), file(b"a")))[0][0].kind == "directory"
    )
    for flag in (b"M", b"N", b"Z", b"8"):
        with pytest.raises(Unsupported):
            read(archive(block(b"x", flag)))


def test_records_of_any_length_say_their_own() -> None:
    from lamina.image.tar.pax import encode, records

    for length in [*range(120), *range(980, 1010), 9990, 9995]:
        data = encode(b"k", b"x" * length)
        assert data == record(b"k", b"x" * length)
        assert records(data) == [(b"k", b"x" * length)]


def test_limits_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given("") == Limits()
    assert given("entries=5, size=2G,ratio=1k") == Limits(entries=5, size=2 << 30, ratio=1024)
    assert given("name=100").name == 100 and given("name=100000").name == 4095
    for text in ("entries", "entries=", "entries=-1", "entries=1.5", "speed=5", "size=5x", "size=t"):
        with pytest.raises(InvalidInput):
            given(text)
    monkeypatch.setenv("LAMINA_LAYER_LIMITS", "depth=7")
    assert given() == Limits(depth=7)


def test_the_limits_as_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/layers.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert given(",".join(f"{name}={default}" for name, default in rows)) == Limits()
    assert [name for name, _ in rows] == list(Limits.__annotations__)
