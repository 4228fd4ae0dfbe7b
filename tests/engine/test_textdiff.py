"""Unified diffs: what git makes of them, and the forms of everything that is not text."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.engine import textdiff
from lamina.engine.textdiff import Side, changed_blocks, diff_file, quote, split_lines


def side(content: bytes, mode: int = 0o100644, **more: Any) -> Side:
    def opened() -> int:
        reader = os.memfd_create("side")
        os.write(reader, content)
        os.lseek(reader, 0, os.SEEK_SET)
        return reader

    return Side(mode=mode, size=len(content), open=opened, **more)


def link(target: bytes) -> Side:
    return Side(mode=0o120777, target=target)


def diff(path: bytes, old: Side | None, new: Side | None, **more: Any) -> str:
    return b"".join(diff_file(path, old, new, **more)).decode("utf-8", "surrogateescape")


few_lines = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"", b"}", b"\r", b"long line", b"\xff"]), max_size=30
)


@given(few_lines, few_lines, st.booleans(), st.booleans())
def test_blocks_turn_the_old_lines_into_the_new(
    old: list[bytes], new: list[bytes], end: bool, also: bool
) -> None:
    first = split_lines(b"\n".join(old) + b"\n" * end)
    second = split_lines(b"\n".join(new) + b"\n" * also)
    blocks = changed_blocks(first, second)
    result, at = [], 0
    for a, b, c, d in blocks:
        assert a >= at and (a < b or c < d)
        assert a > at or at == 0, "adjacent blocks are one block"
        result += first[at:a] + second[c:d]
        at = b
    assert result + first[at:] == second


@given(few_lines, few_lines)
def test_a_search_without_budget_is_still_right(old: list[bytes], new: list[bytes]) -> None:
    first, second = [line + b"\n" for line in old], [line + b"\n" for line in new]
    found, _ = textdiff._shortest(first, second, 0)
    result, at = [], 0
    for a, b, c, d in found:
        result += first[at:a] + second[c:d]
        at = b
    assert result + first[at:] == second


def test_the_search_is_bounded() -> None:
    """Two long files of two kinds of lines, everything different: quadratic for a search without bound."""
    old = [b"a\n", b"b\n", b"b\n"] * 30_000
    new = [b"b\n", b"a\n", b"a\n"] * 30_000
    assert changed_blocks(old, new)


@pytest.mark.peer("git")
@given(
    old=st.one_of(st.none(), few_lines),
    new=few_lines,
    name=st.sampled_from(
        [b"plain", b"two words", b'quo"te', b"caf\xc3\xa9", b"\xff\x01\n", b"d/e", b"tab\there"]
    ),
    end=st.booleans(),
)
@settings(max_examples=60)
def test_git_applies_it(old: list[bytes] | None, new: list[bytes], name: bytes, end: bool) -> None:
    before = None if old is None else b"\n".join(old) + b"\n" * end
    after = b"\n".join(new)
    with tempfile.TemporaryDirectory() as directory:
        file = os.fsencode(directory) + b"/" + name
        os.makedirs(os.path.dirname(file), exist_ok=True)
        if before is not None:
            Path(os.fsdecode(file)).write_bytes(before)
        patch = b"".join(diff_file(b"/" + name, None if before is None else side(before), side(after)))
        if patch:
            done = subprocess.run(
                ["git", "apply", "--whitespace=nowarn", "-"], cwd=directory, input=patch, capture_output=True
            )
            assert done.returncode == 0, (done.stderr, patch)
            assert Path(os.fsdecode(file)).read_bytes() == after
        else:
            assert before == after


@pytest.mark.peer("git")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, link(b"/etc/target")),
        (link(b"old"), link(b"new")),
        (link(b"old"), None),
        (side(b"text\n"), link(b"elsewhere")),
        (link(b"elsewhere"), side(b"text\n")),
        (side(b"text\n"), side(b"text\n", mode=0o100755)),
        (side(b"text\n"), None),
        (None, side(b"")),
        (side(b""), None),
    ],
)
def test_git_applies_links_modes_and_kinds(tmp_path: Path, old: Side | None, new: Side | None) -> None:
    def put(there: Side | None) -> None:
        if there is None:
            return
        if stat.S_ISLNK(there.mode):
            (tmp_path / "x").symlink_to(os.fsdecode(there.target))
        else:
            assert there.open is not None
            with open(there.open(), "rb") as content:
                (tmp_path / "x").write_bytes(content.read())
            (tmp_path / "x").chmod(stat.S_IMODE(there.mode))

    def seen() -> object:
        if not os.path.lexists(tmp_path / "x"):
            return None
        if (tmp_path / "x").is_symlink():
            return os.readlink(tmp_path / "x")
        return (tmp_path / "x").read_bytes(), (tmp_path / "x").stat().st_mode & 0o111

    put(new)
    wanted = seen()
    if wanted is not None:
        (tmp_path / "x").unlink()
    put(old)
    patch = b"".join(diff_file(b"/x", old, new))
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch, check=True)
    assert seen() == wanted


def test_the_everyday_form() -> None:
    old = side(b"".join(b"line %d\n" % n for n in range(1, 30)))
    new = side(b"".join(b"line %d\n" % n for n in range(1, 30)).replace(b"line 9\n", b"nine\n") + b"last")
    assert diff(b"/etc/some file", old, new) == (
        "diff --git a/etc/some file b/etc/some file\n"
        "--- a/etc/some file\t\n"
        "+++ b/etc/some file\t\n"
        "@@ -6,7 +6,7 @@\n line 6\n line 7\n line 8\n-line 9\n+nine\n line 10\n line 11\n line 12\n"
        "@@ -27,3 +27,4 @@\n line 27\n line 28\n line 29\n+last\n\\ No newline at end of file\n"
    )


def test_added_and_deleted_files_have_dev_null() -> None:
    assert diff(b"/n", None, side(b"x\n", mode=0o100600)) == (
        "diff --git a/n b/n\nnew file mode 100600\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n"
    )
    assert diff(b"/n", side(b"x\n"), None) == (
        "diff --git a/n b/n\ndeleted file mode 100644\n--- a/n\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    )


def test_what_a_patch_cannot_carry_is_said() -> None:
    assert (
        diff(b"/d", None, Side(mode=0o40750, uid=5, gid=6)) == "# directory /d: added, mode 0750, owner 5:6\n"
    )
    assert diff(b"/d", Side(mode=0o40750), Side(mode=0o41777)) == "# directory /d: mode 0750 becomes 1777\n"
    assert diff(b"/d", Side(mode=0o40750), None) == "# directory /d: deleted\n"
    assert diff(b"/c\xff", None, Side(mode=0o20600, rdev=os.makedev(1, 3))) == (
        '# character device 1:3 "/c\\377": added, mode 0600, owner 0:0\n'
    )
    assert diff(b"/f", side(b"x", uid=1), side(b"x")) == "# owner of /f: 1:0 becomes 0:0\n"
    assert b"".join(diff_file(b"/f", side(b"x"), side(b"x"), notes=["xattrs of /f differ"])) == (
        b"# xattrs of /f differ\n"
    )


def test_binary_and_long_files_are_named() -> None:
    assert diff(b"/b", side(b"a\0b"), side(b"a\0c")) == (
        "diff --git a/b b/b\nBinary files a/b and b/b differ\n"
    )
    assert diff(b"/b", None, side(b"\0")) == (
        "diff --git a/b b/b\nnew file mode 100644\nBinary files /dev/null and b/b differ\n"
    )
    assert diff(b"/b", side(b"a" * 11), side(b"a"), longest=10) == (
        "diff --git a/b b/b\nBinary files a/b and b/b differ (11 bytes: only files of up to 10 bytes are shown)\n"
    )
    assert diff(b"/b", side(b"a\0b"), side(b"a\0b")) == ""


def test_names_are_quoted_as_git_does() -> None:
    assert quote(b"a/plain name") == b"a/plain name"
    assert quote(b'a/"\\\t\n\x01\xe9') == b'"a/\\"\\\\\\t\\n\\001\\351"'
