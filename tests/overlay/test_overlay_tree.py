"""Reading a stack without mounting it: pathlib's manners, links that stay inside, hostile layers."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lamina.errors import InvalidInput, KernelError
from lamina.linux.mount import mount
from lamina.overlay.layer import TRUSTED
from lamina.overlay.layer import USER as USER_MARKS
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from lamina.overlay.tree import Tree
from support.grow import WHITEOUT, XWHITEOUT, Marked, Metacopy, To, grow, moved, opaque
from support.held import held_descriptors
from support.namespaces import in_mount_namespace
from support.rootless import Rootless
from support.snapshots import Snapshot, beside_broken, differences, errno_of, snapshot, snapshot_tree
from support.stacks import mounted

FOLLOW = (("redirect_dir", "on"), ("metacopy", "on"))


def stack(
    place: Path, *layers: object, user: bool = False, data: int = 0, options: object = FOLLOW
) -> Overlay:
    """An overlay of drawn-by-hand layers, the upper first."""
    marks = USER_MARKS if user else TRUSTED
    paths = [bytes(grow(place / f"layer{n}", layer, marks)) for n, layer in enumerate(layers)]  # type: ignore[arg-type]
    lowers = paths[1:]
    return Overlay(
        MountSpec(
            tuple(lowers[: len(lowers) - data]),
            upperdir=paths[0],
            workdir=bytes(place / "work"),
            datadirs=tuple(lowers[len(lowers) - data :]),
            userxattr=user,
            options=() if user else options,  # type: ignore[arg-type]
        )
    )


def shown(tree: Tree) -> dict[str, str]:
    """Path: content, of all regular files."""
    return {
        str(directory / name): (directory / name).read_text()
        for directory, _, names in tree.walk()
        for name in names
        if (directory / name).is_file()
    }


# -- what shows ------------------------------------------------------------------------------------------------


def test_the_classic_three_directories(tmp_path: Path) -> None:
    grow(tmp_path / "A", {"a": "A", "b": "A", "c": "A"})
    grow(tmp_path / "B", {"a": "B", "d": "B"})
    grow(tmp_path / "C", {"b": "C", "e": "C"})
    overlay = Overlay.from_options("lowerdir=A:B,upperdir=C,workdir=worker", relative_to=tmp_path)
    with overlay.open() as tree:
        assert [entry.name for entry in tree.iterdir()] == ["a", "b", "c", "d", "e"]
        assert shown(tree) == {"/a": "A", "/b": "C", "/c": "A", "/d": "B", "/e": "C"}
    with overlay.open_below() as tree:
        assert shown(tree) == {"/a": "A", "/b": "A", "/c": "A", "/d": "B"}


def test_whiteouts_opaque_directories_and_other_kinds(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {
            "gone": WHITEOUT,
            "new": Marked({"mine": "1"}, opaque=b"y"),
            "file": {"now": "a directory"},
            "dir": "a file",
        },
        {
            "gone": "x",
            "new": {"theirs": "2"},
            "file": "x",
            "dir": {"deep": {"er": "x"}},
            "also": {"kept": "3"},
        },
        user=True,
    )
    with overlay.open() as tree:
        assert shown(tree) == {
            "/new/mine": "1",
            "/file/now": "a directory",
            "/dir": "a file",
            "/also/kept": "3",
        }
        assert not (tree / "gone").exists()
        assert not (tree / "dir/deep").exists()


def test_whiteouts_of_the_xattr_form(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {}, {"d": {"a": XWHITEOUT, "c": "1"}}, {"d": {"a": "2", "b": "2"}}, user=True)
    with overlay.open() as tree:
        assert shown(tree) == {"/d/b": "2", "/d/c": "1"}


@pytest.mark.root
def test_redirects_go_through_several_layers(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {"now": moved("/then", new="0"), "here": moved("there")},
        {"then": moved("/before/that", own="1"), "there": {"x": "1"}},
        {"before": {"that": {"old": "2"}}, "then": {"hidden": "2"}},
    )
    with overlay.open() as tree:
        assert shown(tree / "now") == {"/now/new": "0", "/now/own": "1", "/now/old": "2"}
        assert shown(tree / "here") == {"/here/x": "1"}
        assert (tree / "now").sources() == ((0, b"now"), (1, b"then"), (2, b"before/that"))


@pytest.mark.root
def test_a_metacopy_has_its_attributes_here_and_its_content_below(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"f": Metacopy(7, mode=0o600), "g": Metacopy(7, b"f")}, {"f": "content"})
    with overlay.open() as tree:
        assert (tree / "f").read_text() == (tree / "g").read_text() == "content"
        assert stat.S_IMODE((tree / "f").stat().st_mode) == 0o600
        assert (tree / "f").listxattr() == []


@pytest.mark.root
def test_content_from_a_data_only_layer(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {},
        {"f": Metacopy(4, b"/objects/1"), "lost": Metacopy(4, b"/objects/2")},
        {},
        {"objects": {"1": "data"}},
        data=1,
    )
    with overlay.open() as tree:
        assert (tree / "f").read_text() == "data"
        assert not (tree / "objects").exists(), "data-only layers are in no directory"
        assert (tree / "lost").stat().st_size == 4, "as in a mount, what is missing is noticed by who reads"
        with pytest.raises(OSError) as caught:
            (tree / "lost").read_bytes()
        assert caught.value.errno == errno.ENOENT


@pytest.mark.root
def test_what_is_no_file_in_one_data_only_layer_is_looked_for_in_the_next(tmp_path: Path) -> None:
    """Found by the property test: ENOENT, not EINVAL, if it is a file in none."""
    files = {"f": Metacopy(4, b"/o"), "lost": Metacopy(4, b"/d")}
    overlay = stack(tmp_path, {}, files, {}, {"o": {}, "d": {}}, {"o": "data"}, data=2)
    with overlay.open() as tree:
        assert (tree / "f").read_text() == "data"
        with pytest.raises(FileNotFoundError):
            (tree / "lost").read_text()


@pytest.mark.root
@pytest.mark.parametrize(
    ("entry", "options", "code"),
    [
        (Metacopy(1), (("metacopy", "off"),), errno.EPERM),
        (Metacopy(1), FOLLOW, errno.EIO),
        (moved("/b"), (("redirect_dir", "nofollow"),), errno.EPERM),
        (moved("//b"), FOLLOW, errno.EINVAL),
        (moved("/../b"), FOLLOW, errno.EACCES),
        (moved(".."), FOLLOW, errno.EACCES),
    ],
)
def test_marks_that_are_not_followed_are_refused_as_by_the_kernel(
    tmp_path: Path, entry: object, options: object, code: int
) -> None:
    overlay = stack(tmp_path, {"a": entry}, {"b": {"x": "1"}}, options=options)
    with overlay.open() as tree:
        assert [found.name for found in tree.iterdir()] == ["a", "b"], "listed, as in a mount"
        with pytest.raises(OSError) as caught:
            (tree / "a").stat()
        assert caught.value.errno == code


@pytest.mark.root
def test_files_that_cannot_be_looked_up_where_whiteouts_may_be_attributes(tmp_path: Path) -> None:
    """Found by the property test: reading such a directory, the kernel looks each file up, and may fail with that."""
    entries = {"w": XWHITEOUT, "f": "1", **{name: Metacopy(1) for name in "klmnop"}}
    overlay = stack(tmp_path, {}, {"d": entries, **entries}, {"b": "1"}, options=(("metacopy", "off"),))
    merged = tmp_path / "merged"
    merged.mkdir()

    def by_the_kernel() -> Snapshot:
        with mounted(overlay.spec, os.fsencode(merged)):
            return snapshot(os.fsencode(merged), [b"d/k"])

    with overlay.open() as tree:
        ours = snapshot_tree(tree)
        assert [found.name for found in (tree / "d").iterdir()] == ["f", *"klmnop"]
    theirs = in_mount_namespace(by_the_kernel)
    assert theirs[b"d"][8] == ours[b"d"][8] == [b"f"]
    assert theirs[b"d/k"] == ours[b"d/k"] == ("errno", "EPERM")


@pytest.mark.root
def test_files_that_cannot_be_looked_up_in_an_impure_directory_can_be_listed(tmp_path: Path) -> None:
    """Found by the property test: the kernel looks everything up in such a directory, and lists none of it then."""
    entries = {"f": "1", "k": Metacopy(1), "sub": {"x": "2"}}
    overlay = stack(tmp_path, {"d": entries}, {"b": "1"}, options=(("metacopy", "off"),))
    assert overlay.spec.upperdir is not None
    os.setxattr(overlay.spec.upperdir + b"/d", "trusted.overlay.impure", b"y")
    merged = tmp_path / "merged"
    merged.mkdir()

    def by_the_kernel(asked: list[bytes]) -> tuple[object, Snapshot]:
        with mounted(overlay.spec, os.fsencode(merged)):
            said = errno_of(lambda: os.listdir(merged / "d"))
            return said, snapshot(os.fsencode(merged), asked)

    with overlay.open() as tree:
        ours = snapshot_tree(tree)
        assert [found.name for found in (tree / "d").iterdir()] == ["f", "k", "sub"]
    said, theirs = in_mount_namespace(by_the_kernel, beside_broken(ours))
    assert said == ("errno", "EPERM")
    assert ours[b"d/k"] == ("errno", "EPERM")
    assert not differences(ours, theirs, frozenset({"ctime"}))
    assert in_mount_namespace(by_the_kernel, [])[1][b"d"][8] == said, "nobody knows what it does not list"


def test_an_ordinary_users_stack_follows_no_redirect(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"a": moved("/secret")}, {"secret": {"x": "1"}}, user=True)
    with overlay.open() as tree, pytest.raises(PermissionError):
        (tree / "a").stat()


# -- pathlib's manners -----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    overlay = stack(
        tmp_path,
        {"etc": {"motd": "hello", "link": To("motd"), "up": To("../usr/lib"), "abs": To("/usr/lib/x")}},
        {
            "usr": {"lib": {"x": "lib"}, "odd": To("./lib//x")},
            "loop": To("loop"),
            "nowhere": To("gone"),
            "lib": To("usr/lib/"),
        },
        user=True,
    )
    return overlay.open()


def test_paths(tree: Tree) -> None:
    path = tree / "etc" / "motd"
    assert (str(path), path.name, path.path, path.parts) == (
        "/etc/motd",
        "motd",
        b"/etc/motd",
        (b"etc", b"motd"),
    )
    assert path == tree / b"etc/motd" == tree.joinpath("etc", "motd") == tree / "usr" / "/etc/motd"
    assert len({path, tree / "etc//./motd"}) == 1
    assert path.parent == tree / "etc"
    assert tree.parent == tree == path.root
    assert repr(path) == "Tree('/etc/motd')"
    with pytest.raises(ValueError, match="null byte"):
        tree / "a\0b"


def test_what_is_there(tree: Tree) -> None:
    assert tree.is_dir()
    assert (tree / "etc/motd").is_file()
    assert not (tree / "etc/motd").is_dir()
    assert (tree / "etc/link").is_symlink()
    assert (tree / "etc/link").is_file()
    assert not (tree / "etc/motd").is_symlink()
    assert (tree / "nowhere").exists(follow_symlinks=False)
    assert not (tree / "nowhere").exists()
    assert not (tree / "loop").exists()
    assert not (tree / "etc/motd/below").exists()
    assert not (tree / ("x" * 300)).exists()
    assert (tree / "etc/link").lstat().st_size == 4
    assert (tree / "etc/link").stat().st_size == 5


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("none", FileNotFoundError),
        ("etc/none/none", FileNotFoundError),
        ("etc/motd/x", NotADirectoryError),
        ("etc/motd/..", NotADirectoryError),
        ("nowhere", FileNotFoundError),
    ],
)
def test_what_is_not_there(tree: Tree, path: str, error: type[OSError]) -> None:
    with pytest.raises(error) as caught:
        (tree / path).stat()
    assert caught.value.filename == f"/{path}"


def test_links_are_followed_inside_the_tree(tree: Tree) -> None:
    assert (tree / "etc/link").read_text() == "hello"
    assert (tree / "etc/abs").read_text() == "lib"
    assert (tree / "etc/up/x").read_text() == "lib"
    assert (tree / "lib/x").read_text() == "lib"
    assert (tree / "etc/up/../odd").read_text() == "lib"
    assert (tree / "../../etc/motd").read_text() == "hello", "there is nothing above the root"
    assert (tree / "etc/up/x").resolve() == tree / "usr/lib/x"
    assert (tree / "etc/up/none/..").resolve() == tree / "usr/lib"
    with pytest.raises(FileNotFoundError):
        (tree / "etc/none").resolve(strict=True)
    with pytest.raises(OSError) as caught:
        (tree / "loop").stat()
    assert caught.value.errno == errno.ELOOP


def test_a_chain_of_links_ends_where_the_kernels_does(tmp_path: Path) -> None:
    links = {f"l{n}": To(f"l{n + 1}") for n in range(41)}
    with stack(tmp_path, {}, {**links, "l41": "end"}, user=True).open() as tree:
        assert (tree / "l1").read_text() == "end", "40 links"
        with pytest.raises(OSError) as caught:
            (tree / "l0").read_text()
        assert caught.value.errno == errno.ELOOP


def test_readlink(tree: Tree) -> None:
    assert (tree / "etc/up").readlink() == PurePosixPath("../usr/lib")
    assert (tree / "usr/odd").readlink_bytes() == b"./lib//x"
    with pytest.raises(OSError) as caught:
        (tree / "etc/motd").readlink()
    assert caught.value.errno == errno.EINVAL


def test_reading(tree: Tree) -> None:
    motd = tree / "etc/motd"
    assert motd.read_bytes() == b"hello"
    with motd.open() as text, motd.open("rb") as binary:
        assert (text.read(), binary.read()) == ("hello", b"hello")
    with pytest.raises(IsADirectoryError):
        (tree / "etc").read_bytes()
    with pytest.raises(NotADirectoryError):
        list(motd.iterdir())
    for mode in ("w", "a", "r+", "rb+", "x"):
        with pytest.raises(InvalidInput, match="only read"):
            motd.open(mode)  # type: ignore[call-overload]


def test_walk(tree: Tree) -> None:
    found = [(str(path), directories, others) for path, directories, others in tree.walk()]
    assert found == [
        ("/", ["etc", "usr"], ["lib", "loop", "nowhere"]),
        ("/etc", [], ["abs", "link", "motd", "up"]),
        ("/usr", ["lib"], ["odd"]),
        ("/usr/lib", [], ["x"]),
    ]
    upwards = [str(path) for path, _, _ in tree.walk(top_down=False)]
    assert upwards == ["/etc", "/usr/lib", "/usr", "/"]
    assert [str(path) for path, _, _ in (tree / "usr").walk()] == ["/usr", "/usr/lib"]
    pruned = []
    for path, directories, _ in tree.walk():
        pruned.append(str(path))
        directories[:] = [name for name in directories if name != "usr"]
    assert pruned == ["/", "/etc"]
    errors: list[OSError] = []
    assert list((tree / "none").walk(on_error=errors.append)) == []
    assert isinstance(errors[0], FileNotFoundError)


def test_an_entry_remembers_what_was_found(tmp_path: Path) -> None:
    with stack(tmp_path, {"f": "1"}, {}, user=True).open() as tree:
        (entry,) = tree.iterdir()
        (tmp_path / "layer0/f").write_text("longer")
        assert entry.stat().st_size == 1, "as os.DirEntry does"
        assert (tree / "f").stat().st_size == 6, "a path looks anew"


def test_attributes(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"f": "1"}, {}, user=True)
    os.setxattr(tmp_path / "layer0/f", "user.mine", b"1")
    os.setxattr(tmp_path / "layer0/f", "user.overlay.origin", b"private")
    os.setxattr(tmp_path / "layer0/f", "user.overlay.overlay.inner", b"2")
    with overlay.open() as tree:
        node = tree / "f"
        assert node.listxattr() == ["user.mine", "user.overlay.inner"]
        assert node.getxattr("user.mine") == b"1"
        assert node.getxattr("user.overlay.inner") == b"2"
        assert node.xattrs() == {"user.mine": b"1", "user.overlay.inner": b"2"}
        for hidden in ("user.overlay.origin", "user.none"):
            with pytest.raises(OSError) as caught:
                node.getxattr(hidden)
            assert caught.value.errno == errno.ENODATA


def test_merged_directories_have_one_link_as_in_a_mount(tmp_path: Path) -> None:
    with stack(tmp_path, {"d": {}, "own": {"a": {}}}, {"d": {"x": {}}}, user=True).open() as tree:
        assert (tree / "d").stat().st_nlink == 1
        assert (tree / "own").stat().st_nlink == os.stat(tmp_path / "layer0/own").st_nlink
        assert (tree / "d").stat().st_mtime_ns == os.stat(tmp_path / "layer0/d").st_mtime_ns


def test_relative_directories_are_those_of_the_moment_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(tmp_path, {"A": {"a": "1"}, "B": {"b": "2"}})
    monkeypatch.chdir(tmp_path)
    with Overlay(MountSpec((b"A", b"B"))).open() as tree:
        monkeypatch.chdir("/")
        assert shown(tree) == {"/a": "1", "/b": "2"}


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    with Overlay(MountSpec((bytes(tmp_path / "none"),))).open() as tree, pytest.raises(KernelError) as caught:
        list(tree.iterdir())
    assert caught.value.errno == errno.ENOENT
    assert str(tmp_path / "none") in str(caught.value)


def test_a_stack_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no lower"):
        Overlay(MountSpec((), b"/tmp")).open()


def test_closing_ends_it(tree: Tree) -> None:
    tree.close()
    tree.close()
    with pytest.raises(ValueError, match="closed"):
        (tree / "etc/motd").read_bytes()


def test_it_is_a_value() -> None:
    spec = MountSpec((b"/a",), b"/b", b"/w")
    assert Overlay(spec) == Overlay(MountSpec((b"/a",), b"/b", b"/w"))
    assert len({Overlay(spec), Overlay(spec)}) == 1
    assert Overlay(spec) != Overlay(MountSpec((b"/a",)))
    assert repr(Overlay(spec)).startswith("Overlay(MountSpec(")


# -- many and deep ---------------------------------------------------------------------------------------------


def test_four_hundred_layers(tmp_path: Path) -> None:
    lowers = [
        bytes(grow(tmp_path / str(n), {f"f{n}": str(n), "same": str(n), "d": {f"{n}": ""}}))
        for n in range(400)
    ]
    with Overlay(MountSpec(tuple(lowers))).open() as tree:
        assert len(list(tree.iterdir())) == 402
        assert (tree / "same").read_text() == "0"
        assert (tree / "f399").read_text() == "399"
        assert len(list((tree / "d").iterdir())) == 400


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory that may become deeper than `shutil.rmtree`, and so pytest, can remove."""
    (tmp_path / "deep").mkdir()
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


def test_more_layers_than_descriptors_are_usual(tmp_path: Path) -> None:
    lowers = [bytes(grow(tmp_path / str(n), {"d": {f"{n}": "x", "e": {f"{n}": ""}}})) for n in range(300)]
    grow(tmp_path / "upper", {"d": {"e": opaque()}}, USER_MARKS)
    spec = MountSpec(tuple(lowers), bytes(tmp_path / "upper"), userxattr=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 560, hard))
    try:
        with Overlay(spec).open() as tree:
            assert len(list((tree / "d").iterdir())) == 301
        assert sum(change.kind == "deleted" for change in Overlay(spec).changes()) == 300
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, hard))
        with pytest.raises(KernelError, match=r"open layer .*Too many open files") as refused:
            list(Overlay(spec).changes())
        assert "ulimit -n" in refused.value.remedy
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_directories_deeper_than_any_path(deep: Path) -> None:
    tmp_path = deep
    here = os.open(grow(tmp_path / "A", {}), os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=here)
        here, above = os.open("deep", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    with open(os.open("end", os.O_WRONLY | os.O_CREAT, dir_fd=here), "w") as file:
        file.write("found")
    os.close(here)
    overlay = Overlay(MountSpec((bytes(grow(tmp_path / "none", {})),), bytes(tmp_path / "A"), userxattr=True))
    with overlay.open() as tree:
        assert (tree / b"/".join([b"deep"] * 1500) / "end").read_text() == "found"
        assert sum(1 for _ in tree.walk()) == 1501
    assert sum(1 for _ in overlay.changes()) == 1502


# -- hostile layers --------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "outside/secret"
    path.parent.mkdir()
    path.write_text("secret of the host")
    return path


@pytest.mark.root
@pytest.mark.parametrize("redirect", ["/../outside/secret", "../outside", "/link/secret", "/link", "link"])
def test_no_mark_leads_out_of_the_layers(tmp_path: Path, secret: Path, redirect: str) -> None:
    outside = To(str(secret.parent))
    overlay = stack(
        tmp_path,
        {"dir": Marked(redirect=redirect.encode()), "file": Metacopy(18, redirect.encode())},
        {"link": outside},
        {"link": outside},
        data=1,
    )
    with overlay.open() as tree:
        for name in ("dir/secret", "file", "dir"):
            try:
                assert "secret" not in (tree / name).read_text()
            except OSError as error:
                assert error.errno != errno.EIO or name == "file"
        assert "secret of the host" not in str(snapshot_tree(tree))


def test_links_of_a_layer_lead_nowhere_on_the_host(tmp_path: Path, secret: Path) -> None:
    overlay = stack(
        tmp_path,
        {"abs": To(str(secret)), "up": To("../../outside/secret"), "dir": To(str(secret.parent))},
        {},
        user=True,
    )
    with overlay.open() as tree:
        for path in ("abs", "up", "dir/secret"):
            assert not (tree / path).exists()


def test_a_fifo_or_device_is_never_opened(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {}, {}, user=True)
    os.mkfifo(tmp_path / "layer0/fifo")
    with overlay.open() as tree:
        assert (tree / "fifo").is_fifo()
        with pytest.raises(OSError) as caught:
            (tree / "fifo").read_bytes()
        assert caught.value.errno == errno.EINVAL


def test_what_open_refuses_leaves_nothing_open(tmp_path: Path) -> None:
    """Whether `open` refuses words before it has the descriptor, or after that."""
    wrong: list[dict[str, Any]] = [
        {"mode": "rb", "errors": "strict"}, {"mode": "rb", "newline": ""}, {"mode": "rb", "encoding": "utf-8"},
        {"encoding": "no such"}, {"buffering": 0}, {"newline": "x"},
    ]  # fmt: skip
    with stack(tmp_path, {"file": "text"}, {}, user=True).open() as tree:
        (tree / "file").read_bytes()
        before = held_descriptors()
        for words in wrong:
            with pytest.raises((ValueError, LookupError)):
                (tree / "file").open(**words)
        assert held_descriptors() == before
        with (tree / "file").open() as file:
            assert (file.name, file.read()) == ("/file", "text")


def test_a_layer_that_swaps_directories_for_links_never_shows_the_host(tmp_path: Path, secret: Path) -> None:
    """The classic race: what was a directory when it was looked at is a link to the host when it is opened."""
    overlay = stack(tmp_path, {"d": {"secret": "mine"}}, {}, user=True)
    layer = tmp_path / "layer0"
    (layer / "link").symlink_to(secret.parent)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(layer / "d", layer / "was")
            os.rename(layer / "link", layer / "d")
            os.rename(layer / "d", layer / "link")
            os.rename(layer / "was", layer / "d")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = set()
        with overlay.open() as tree:
            for _ in range(2000):
                try:
                    seen.add((tree / "d/secret").read_text())
                except OSError as error:
                    seen.add(str(error.errno))
                try:
                    assert all(change.after is not None for change in overlay.changes())
                except OSError as error:
                    assert error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
    finally:
        stop.set()
        thread.join()
    assert not {text for text in seen if "host" in text}
    with overlay.open() as tree:
        assert (tree / "d/secret").read_text() == "mine"


@pytest.mark.root
def test_what_is_mounted_below_a_layer_is_not_part_of_it(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {}, {"d": {"inside": "layer"}, "f": "1"}, options=())

    def check() -> None:
        mount(b"tmpfs", tmp_path / "layer1/d", b"tmpfs", 0, b"")
        (tmp_path / "layer1/d/above").write_text("mounted")
        with overlay.open() as tree:
            ours = snapshot_tree(tree)
            assert (tree / "d/inside").read_text() == "layer"
        os.chdir(tmp_path)
        Path("m").mkdir()
        with mounted(MountSpec((b"layer1",), b"layer0", b"work"), b"m"):
            theirs = snapshot(b"m")
        assert ours.keys() == theirs.keys()
        assert ours[b"d"] == theirs[b"d"]

    in_mount_namespace(check)


@pytest.mark.root
def test_who_may_not_look_is_told_so(tmp_path: Path, rootless: Rootless) -> None:
    place = rootless.mkdir("stack")
    grow(place / "A", {"open": {"x": "1"}, "closed": {"y": "2"}}, USER_MARKS)
    grow(place / "B", {}, USER_MARKS)
    (place / "A/closed").chmod(0o700)
    said = rootless.python(
        f"""
import os
from lamina.overlay.stack import Overlay
from lamina.overlay.spec import MountSpec
with Overlay(MountSpec((b"{place}/A", b"{place}/B"), userxattr=True)).open() as tree:
    print((tree / "open/x").read_text(), (tree / "closed").is_dir())
    for ask in (lambda: list((tree / "closed").iterdir()), lambda: (tree / "closed/y").exists()):
        try:
            print("no", ask())
        except OSError as error:
            print(error.errno, "closed" in str(error))
"""
    )
    assert said.stdout == "1 True\n13 True\n13 True\n", said.stderr
