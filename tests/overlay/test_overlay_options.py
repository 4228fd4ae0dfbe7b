"""The words after -o: read as the kernel reads them, written back, and a helpful word for what cannot be meant."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
)
from lamina.overlay.options import _split, format_options, parse_mount_options, parse_options
from lamina.overlay.spec import MountSpec
from support.namespaces import in_mount_namespace

paths = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\0", b"")).filter(bool),
    st.text(alphabet='ab:,\\ "\n=+/', min_size=1, max_size=30).map(str.encode),
)
SETTINGS = {
    "redirect_dir": ("on", "follow", "nofollow", "off"),
    "metacopy": ("on", "off"),
    "index": ("on", "off"),
    "uuid": ("on", "auto", "null", "off"),
    "nfs_export": ("on", "off"),
    "xino": ("on", "auto", "off"),
    "verity": ("on", "require", "off"),
    "fsync": ("auto", "strict", "volatile"),
    "default_permissions": ("",),
    "override_creds": ("",),
    "sync": ("",),
    "dirsync": ("",),
    "lazytime": ("",),
    "context": ("system_u:object_r:t:s0", "system_u:object_r:t:s0:c1,c2"),
}
options = st.permutations(sorted(SETTINGS)).flatmap(
    lambda keys: st.integers(0, len(keys)).flatmap(
        lambda n: st.tuples(*(st.tuples(st.just(k), st.sampled_from(SETTINGS[k])) for k in keys[:n]))
    )
)
attributes = st.tuples(
    st.sampled_from((0, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME)),
    st.sets(
        st.sampled_from(
            (
                MOUNT_ATTR_RDONLY,
                MOUNT_ATTR_NOSUID,
                MOUNT_ATTR_NODEV,
                MOUNT_ATTR_NOEXEC,
                MOUNT_ATTR_NODIRATIME,
                MOUNT_ATTR_NOSYMFOLLOW,
            )
        )
    ),
).map(lambda found: found[0] | sum(found[1]))


@st.composite
def specs(draw: st.DrawFn) -> MountSpec:
    writable = draw(st.booleans())
    return MountSpec(
        lowerdirs=tuple(draw(st.lists(paths, min_size=1, max_size=6))),
        upperdir=draw(paths) if writable else None,
        workdir=draw(paths) if writable or draw(st.booleans()) else None,
        datadirs=tuple(draw(st.lists(paths, max_size=3))),
        userxattr=draw(st.booleans()),
        volatile=draw(st.booleans()),
        options=draw(options),
    )


@given(specs(), attributes)
def test_what_is_written_is_read_again(spec: MountSpec, flags: int) -> None:
    text = format_options(spec, flags)
    found = parse_mount_options(text)
    assert (found.spec, found.attributes) == (spec, flags)
    assert parse_mount_options(os.fsdecode(text)) == found


@given(specs(), specs())
def test_several_texts_are_one_after_the_other(one: MountSpec, other: MountSpec) -> None:
    whole = parse_options([format_options(one), format_options(other)])
    assert whole.lowerdirs == other.lowerdirs
    assert whole.datadirs == other.datadirs
    assert whole.upperdir == (one if other.upperdir is None else other).upperdir
    assert dict(whole.options) == dict(one.options) | dict(other.options)


def test_the_everyday_form() -> None:
    assert parse_options("lowerdir=A:B,upperdir=C,workdir=worker") == MountSpec(
        lowerdirs=(b"A", b"B"), upperdir=b"C", workdir=b"worker"
    )


@pytest.mark.parametrize(
    ("text", "lowers", "datas"),
    [
        (rb"lowerdir=a\:b:c\,d:e\\f:g h", (b"a:b", b"c,d", rb"e\f", b"g h"), ()),
        (b"lowerdir=a:b::d1::d2", (b"a", b"b"), (b"d1", b"d2")),
        (rb"lowerdir=a\::b", (b"a:", b"b"), ()),
        (rb"lowerdir=a\::\::b", (b"a:", b":", b"b"), ()),
        (b"lowerdir=a:b\\", (b"a", b"b"), ()),  # the kernel drops it as well
        (rb"lowerdir+=a:b,lowerdir+=c\d,datadir+=e::f", (b"a:b", rb"c\d"), (b"e::f",)),
        (rb"lowerdir+=a\,b", (rb"a\,b",), ()),  # no escape exists: the backslash is part of the name
        (b"lowerdir=x:y::z,lowerdir=a", (b"a",), ()),
        (b"lowerdir+=x,lowerdir=a:b", (b"a", b"b"), ()),
        (b"lowerdir=x:y,lowerdir=,lowerdir+=a", (b"a",), ()),
        (b",,lowerdir=a,,", (b"a",), ()),
        (b"lowerdir=\xff\xfe:\n", (b"\xff\xfe", b"\n"), ()),
        (b"lowerdir=a=b", (b"a=b",), ()),
        (b'lowerdir="a:b"', (b'"a', b'b"'), ()),  # quotes protect nothing in a path
    ],
)
def test_layers(text: bytes, lowers: tuple[bytes, ...], datas: tuple[bytes, ...]) -> None:
    spec = parse_options(text)
    assert (spec.lowerdirs, spec.datadirs) == (lowers, datas)


def test_upper_and_work_are_single_paths() -> None:
    spec = parse_options(rb"lowerdir=a,upperdir=b:c\,d\\e\:f,workdir=\x")
    assert (spec.upperdir, spec.workdir) == (rb"b:c,d\e:f", b"x")


def test_later_options_replace_earlier_ones() -> None:
    spec = parse_options("lowerdir=a,xino=off,index=on,xino=on,sync,async,upperdir=u,workdir=w,upperdir=v")
    assert spec.options == (("index", "on"), ("xino", "on"))
    assert (spec.upperdir, spec.workdir) == (b"v", b"w")


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (
            "ro,nosuid,nodev,noexec",
            MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        ),
        ("ro,rw,nosuid,suid,nodev,dev,noexec,exec", 0),
        ("ro,nosuid,noatime,defaults", MOUNT_ATTR_NOATIME),
        ("noatime,strictatime", MOUNT_ATTR_STRICTATIME),
        ("noatime,relatime", 0),
        ("nodiratime,nosymfollow", MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW),
        ("user", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC),
        ("user,exec", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV),
        ("auto,noauto,nofail,_netdev,x-systemd.automount,comment=hello", 0),
    ],
)
def test_flags_of_the_mount_are_kept_apart(words: str, flags: int) -> None:
    found = parse_mount_options(f"lowerdir=a:b,{words}")
    assert found.attributes == flags
    assert found.spec == MountSpec(lowerdirs=(b"a", b"b"))


def test_a_stack_alone_has_no_flags() -> None:
    with pytest.raises(InvalidInput, match="'nosuid' is a flag of a mount"):
        parse_options("lowerdir=a:b,nosuid")


def test_relative_paths_can_be_placed() -> None:
    spec = parse_options("lowerdir=a:/b::c,upperdir=u,workdir=/w", relative_to="/base")
    assert spec.lowerdirs == (b"/base/a", b"/b")
    assert (spec.datadirs, spec.upperdir, spec.workdir) == ((b"/base/c",), b"/base/u", b"/w")


def test_labels_may_have_commas_in_quotes() -> None:
    spec = parse_options('context="u:r:t:s0:c1,c2",lowerdir=a:b')
    assert spec.options == (("context", "u:r:t:s0:c1,c2"),)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("lowredir=a", "'lowredir=a': there is no such option", "did you mean lowerdir?"),
        ("lowerdir=a,nosiud", "'nosiud': there is no such option", "did you mean nosuid?"),
        ("lowerdir=a,nfs-export=on", "no such option", "did you mean nfs_export?"),
        ("lowerdir=a, xino=on", "no such option", "did you mean xino?"),
        ("lowerdir=a,qqqqqqq", "no such option", "docs/overlay.md"),
        ("lowerdir=a,index=maybe", "index is one of on off", ""),
        ("lowerdir=a,xino=", "xino is one of", ""),
        ("lowerdir=a,index", "index is one of", ""),
        ("lowerdir=a,userxattr=on", "userxattr takes no value", ""),
        ("lowerdir=a,ro=1", "ro takes no value", ""),
        ("lowerdir=a,remount", "not about a new overlay mount", ""),
        ("lowerdir=a,upperdir=b", "an upperdir needs a workdir", "workdir=DIRECTORY"),
        ("lowerdir=a,upperdir=,workdir=w", "an empty path", ""),
        ("lowerdir", "lowerdir needs a path", ""),
        ("", "lowerdir is missing", "lowerdir=DIRECTORY"),
        ("upperdir=a,workdir=b", "lowerdir is missing", ""),
        ("lowerdir=a,lowerdir=", "lowerdir is missing", ""),
        ("lowerdir=:a", "separated by one colon", ""),
        ("lowerdir=a:::b", "separated by one colon", ""),
        ("lowerdir=a:", "separated by one colon", ""),
        ("lowerdir=a::", "separated by one colon", ""),
        ("lowerdir=a::b:c", "cannot lie below a data-only one", ""),
        ("lowerdir+=a,datadir+=b,lowerdir+=c", "cannot lie below a data-only one", ""),
        ("lowerdir=a,lowerdir+=b", "cannot follow lowerdir", ""),
        ("lowerdir=a,datadir+=b", "cannot follow lowerdir", ""),
        ("lowerdir+=", "an empty path", ""),
        ("lowerdir=a\0b", "NUL", ""),
        ('lowerdir=a,context="b', "not closed", ""),
    ],
)
def test_what_cannot_be_meant(text: str, message: str, remedy: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_mount_options(text)
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        MountSpec(lowerdirs=()),
        MountSpec(lowerdirs=(b"",)),
        MountSpec(lowerdirs=(b"a",), upperdir=b"a\0b", workdir=b"w"),
    ],
)
def test_what_cannot_be_written(spec: MountSpec) -> None:
    with pytest.raises(InvalidInput):
        format_options(spec)


# -- against the kernel ----------------------------------------------------------------------------------------

names = st.text(alphabet='ab:,\\" ', min_size=0, max_size=6)
raw_options = st.lists(
    st.one_of(
        names.map("lowerdir={}".format),
        names.map("lowerdir+={}".format),
        names.map("datadir+={}".format),
        st.sampled_from(
            ("ro", "metacopy=on", "xino=off", "userxattr=", "redirect_dir=on", "metacopy=no", "index")
        ),
        names.map("upperdir=U{},workdir=W".format),
    ),
    max_size=5,
)


def mount2(target: bytes, data: bytes) -> int:
    """mount(2) itself, without anything of ours: 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mount(b"overlay", target, b"overlay", ctypes.c_ulong(0), data)
    return ctypes.get_errno() if failed else 0


def unmount(target: bytes) -> None:
    ctypes.CDLL(None).umount2(target, 0)


@pytest.mark.root
@pytest.mark.kernel("6.8")  # whose parser of options it is
def test_the_kernel_reads_the_same(tmp_path: Path) -> None:
    """Whatever the text: it is refused by both, or the kernel mounts the very layers that were read."""

    @settings(database=None)
    @given(raw_options)
    @example(["lowerdir=a\\", "lowerdir=b:a"])
    @example(["lowerdir=a\\:b:b\\,a\\"])
    @example(["lowerdir+=a\\,b", "lowerdir+=b"])
    @example(["lowerdir=a::b", "lowerdir=", "lowerdir+=b", "lowerdir+=a"])
    @example(["lowerdir=a:b", 'upperdir=U"\\,:\\\\,workdir=W'])
    def compare(texts: list[str]) -> None:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        os.chdir(directory)
        try:
            compare_in_empty_directory(texts)
        finally:
            os.chdir(tmp_path)
            shutil.rmtree(directory)

    in_mount_namespace(compare)


def compare_in_empty_directory(texts: list[str]) -> None:
    text = ",".join(texts)
    Path("merged").mkdir()
    try:
        spec = parse_mount_options(text).spec
    except InvalidInput:
        # so that the kernel has no other reason: every directory that could be meant
        for name in {word for option in text.split(",") for word in option.split("=")[-1].split(":")} | {"W"}:
            if name and not os.path.exists(name):
                os.mkdir(name)
        assert mount2(b"merged", text.encode()) != 0, "the kernel could read it"
        return
    layers = [*spec.lowerdirs, *spec.datadirs]
    assume(len({*layers}) == len(layers) and (spec.upperdir is not None or len(layers) > 1))
    assume(dict(spec.options).get("redirect_dir", "on") == "on")
    for number, path in enumerate(layers):
        os.mkdir(path)
        Path(os.fsdecode(path), f"{number}").touch()
        Path(os.fsdecode(path), "top").write_bytes(path)
    for directory in filter(None, {spec.upperdir, spec.workdir}):
        os.mkdir(directory)
    for option in _split(text.encode()):  # the kernel looks those up as well that a later option replaces
        with contextlib.suppress(InvalidInput):
            replaced = parse_mount_options(["lowerdir+=zz", option, "workdir=W"]).spec
            for directory in filter(None, {*replaced.lowerdirs, *replaced.datadirs, replaced.upperdir}):
                os.makedirs(directory, exist_ok=True)
    refusal = mount2(b"merged", text.encode())
    assert refusal == 0, os.strerror(refusal)
    try:
        expected = {str(number) for number in range(len(spec.lowerdirs))}
        assert {*os.listdir("merged")} == expected | {"top"}
        assert Path("merged/top").read_bytes() == spec.lowerdirs[0]
        if spec.upperdir is not None and os.access("merged", os.W_OK):
            Path("merged/new").touch()
            assert Path(os.fsdecode(spec.upperdir), "new").exists()
    finally:
        unmount(b"merged")
