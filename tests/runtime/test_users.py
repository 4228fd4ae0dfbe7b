"""Who a container runs as: strings that other engines have misread, and files that are not what they seem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, LaminaError, NotFound
from lamina.runtime.users import LARGEST, LARGEST_ID, User, file_reader, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
# a comment
ann:x:1000:1000:Ann,,,:/home/ann:/bin/sh
1234:x:7:7:a name of digits:/:/bin/sh
1bob:x:1001:100::/home/bob:/bin/sh
huge:x:4294967296:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
text:x:0x0:0::/:/bin/sh
relative:x:1002:1002::home:/bin/sh
short:x:1003:1003
caf\xc3\xa9:x:1004:1004::/home/caf\xc3\xa9:
raw\xff:x:1005:1005::/:
ann:x:0:0:the second of that name:/root:
"""
GROUP = b"""root:x:0:
users:x:100:ann,1bob
wheel:x:10:root,ann
wheel2:x:10:ann
broken:x:-5:ann
ann:x:1000:ann
"""


def read(path: str) -> bytes:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}[path]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, User(0, 0, (0, 10), "/root")),
        ("root", User(0, 0, (0, 10), "/root")),
        ("0", User(0, 0, (0, 10), "/root")),
        ("ann", User(1000, 1000, (1000, 100, 10), "/home/ann")),
        ("1000", User(1000, 1000, (1000, 100, 10), "/home/ann")),
        ("01000", User(1000, 1000, (1000, 100, 10), "/home/ann")),
        ("ann:wheel", User(1000, 10, (10,), "/home/ann")),
        ("ann:5", User(1000, 5, (5,), "/home/ann")),
        ("5:5", User(5, 5, (5,), "/")),
        ("5", User(5, 0, (0,), "/")),
        ("5:users", User(5, 100, (100,), "/")),
        ("1bob", User(1001, 100, (100,), "/home/bob")),
        ("1234", User(1234, 0, (0,), "/")),  # digits are a number, never the name
        ("relative", User(1002, 1002, (1002,), "/")),
        ("café", User(1004, 1004, (1004,), "/home/café")),
        ("raw\udcff", User(1005, 1005, (1005,), "/")),
        (str(LARGEST_ID), User(LARGEST_ID, 0, (0,), "/")),
    ],
)
def test_users(asked: str | None, wanted: User) -> None:
    assert resolve_user(asked, read) == wanted


@pytest.mark.parametrize(
    "asked",
    [":1", "1:", ":", str(LARGEST_ID + 1), "2147483648", "4294967295", "4294967296", "99999999999999999999999",
     "0:4294967296", "ann:9999999999"],
)  # fmt: skip
def test_users_that_cannot_be(asked: str) -> None:
    with pytest.raises(InvalidInput):
        resolve_user(asked, read)


@pytest.mark.parametrize(
    "asked",
    ["-1", " 0", "0 ", "+1", "1_0", "0x0", "1e1", "nobody", "ROOT", "ann:nogroup", "ann:-1", "huge", "minus", "text",
     "short", "٣", "# a comment", "root:0:0", "1.0"],
)  # fmt: skip
def test_users_that_are_not_there(asked: str) -> None:
    with pytest.raises(NotFound):
        resolve_user(asked, read)


def test_numbers_need_no_files() -> None:
    assert resolve_user("7:8", lambda path: b"") == User(7, 8, (8,))
    assert resolve_user(None, lambda path: b"") == User(0, 0, (0,))
    with pytest.raises(NotFound):
        resolve_user("root", lambda path: b"")


@given(st.text(max_size=12), st.binary(max_size=200), st.binary(max_size=200))
def test_no_file_makes_anybody_root_by_accident(asked: str, passwd: bytes, group: bytes) -> None:
    """Unless the name is literally that of an entry with uid 0, or the number is 0."""
    files = {"/etc/passwd": passwd, "/etc/group": group}
    try:
        user = resolve_user(asked, lambda path: files[path])
    except LaminaError:
        return
    name = asked.partition(":")[0]
    if user.uid == 0 and asked and not (name.isdigit() and int(name) == 0):
        assert any(line.startswith(os.fsencode(name) + b":") for line in passwd.split(b"\n"))


# -- the files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "passwd").write_text("outside")
    return tmp_path / "root"


def look(root: Path, path: str = "/etc/passwd") -> bytes:
    fd = os.open(root, os.O_PATH)
    try:
        return file_reader(fd)(path)
    finally:
        os.close(fd)


def test_files_are_the_containers(root: Path) -> None:
    (root / "etc" / "passwd").write_text("inside")
    assert look(root) == b"inside"
    assert look(root, "/etc/none") == b""


@pytest.mark.parametrize("target", ["../../../../passwd", "/../passwd", "../../passwd"])
def test_links_cannot_lead_outside(root: Path, target: str) -> None:
    (root / "etc" / "passwd").symlink_to(target)
    assert look(root) == b""


def test_links_inside_are_followed(root: Path) -> None:
    (root / "real").write_text("inside")
    (root / "etc" / "passwd").symlink_to("/real")
    assert look(root) == b"inside"


def test_what_is_no_file_is_empty(root: Path) -> None:
    os.mkfifo(root / "etc" / "passwd")
    (root / "etc" / "group").mkdir()
    assert look(root) == look(root, "/etc/group") == b""


@pytest.mark.root
def test_a_device_is_not_read(root: Path) -> None:
    os.mknod(root / "etc" / "passwd", 0o20666, os.makedev(1, 5))
    assert look(root) == b""


def test_a_file_without_end_is_read_to_a_limit(root: Path) -> None:
    with open(root / "etc" / "passwd", "wb") as file:
        file.truncate(LARGEST * 20)
    assert len(look(root)) == LARGEST
