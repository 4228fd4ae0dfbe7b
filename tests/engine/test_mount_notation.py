"""What can be mounted inside, in Docker's and podman's notation."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.engine.checking import check_options
from lamina.engine.mount_notation import read_mount, read_only, read_tmpfs, read_volume, read_volumes_from
from lamina.engine.options import BIND, OVER, TMPFS, VOLUME, Volume
from lamina.errors import InvalidInput, LaminaError, Unsupported

CLOSED = ("rbind", "rprivate", "nosuid", "nodev")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("data:/b", Volume(b"data", b"/b", CLOSED, VOLUME)),
        ("da.t_a-1:/b:ro", Volume(b"da.t_a-1", b"/b", (*CLOSED, "rro"), VOLUME)),
        ("data:/b:nocopy", Volume(b"data", b"/b", CLOSED, VOLUME, copy=False)),
        ("data:/b:suid,exec", Volume(b"data", b"/b", ("rbind", "rprivate", "nodev", "suid", "exec"), VOLUME)),
        ("data:/b:U,z", Volume(b"data", b"/b", CLOSED, VOLUME, chown=True, relabel="z")),
        ("/b", Volume(b"", b"/b", CLOSED, VOLUME)),
        ("/a:/b:z", Volume(b"/a", b"/b", ("rbind", "rprivate"), relabel="z")),
        ("/a:/b:Z,ro", Volume(b"/a", b"/b", ("rbind", "rprivate", "rro"), relabel="Z")),
        ("/a:/b:U", Volume(b"/a", b"/b", ("rbind", "rprivate"), chown=True)),
        ("/a:/b:O", Volume(b"/a", b"/b", (), OVER)),
        ("/a:/b:O,nodev,rslave", Volume(b"/a", b"/b", ("nodev",), OVER)),
    ],
)
def test_volumes_with_names_and_layers(given: str, wanted: Volume) -> None:
    assert read_volume(given) == wanted


@pytest.mark.parametrize(
    "given",
    ["/a:/b:z,Z", "-data:/b", "a/b:/c", "data:b", "data:/", "dätä:/b", "data:/b:rslave", "data:/b:O", "/a:/b:O,ro",
     "n" * 256 + ":/b"],
)  # fmt: skip
def test_names_that_are_none(given: str) -> None:
    with pytest.raises(InvalidInput):
        read_volume(given)


@pytest.mark.parametrize("word", ["U", "z", "Z"])
def test_a_layer_and_a_change_of_what_is_below_do_not_go_together(word: str) -> None:
    with pytest.raises(Unsupported):
        read_volume(f"/a:/b:O,{word}")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("type=bind,source=/a,target=/b", Volume(b"/a", b"/b", ("rbind", "rprivate"), BIND, create=False)),
        ("type=bind,src=/a,dst=/b,ro", Volume(b"/a", b"/b", ("rbind", "rprivate", "rro"), BIND, create=False)),
        ("TYPE=bind,src=/a,destination=/b,readonly=false",
         Volume(b"/a", b"/b", ("rbind", "rprivate"), BIND, create=False)),
        ("type=bind,src=/a,dst=/b,bind-propagation=rslave,bind-nonrecursive",
         Volume(b"/a", b"/b", ("bind", "rslave"), BIND, create=False)),
        ("type=bind,src=/a,dst=/b,ro,bind-recursive=writable",
         Volume(b"/a", b"/b", ("rbind", "rprivate", "ro"), BIND, create=False)),
        ("type=bind,src=/a,dst=/b,bind-create-src", Volume(b"/a", b"/b", ("rbind", "rprivate"), BIND)),
        ('type=bind,"src=/a,b",dst=/b', Volume(b"/a,b", b"/b", ("rbind", "rprivate"), BIND, create=False)),
        ("source=data,target=/b", Volume(b"data", b"/b", CLOSED, VOLUME)),
        ("type=volume,dst=/b,volume-nocopy=true", Volume(b"", b"/b", CLOSED, VOLUME, copy=False)),
        ("type=volume,src=data,dst=/b,volume-subpath=x/./y,readonly",
         Volume(b"data", b"/b", (*CLOSED, "rro"), VOLUME, subpath=b"x/y")),
        ("type=tmpfs,dst=/b,tmpfs-size=64m,tmpfs-mode=0700",
         Volume(b"tmpfs", b"/b", ("nosuid", "nodev", "noexec", "size=67108864", "mode=0700"), TMPFS)),
        ({"type": "bind", "source": "/a", "target": "/b", "readonly": True},
         Volume(b"/a", b"/b", ("rbind", "rprivate", "rro"), BIND, create=False)),
    ],
)  # fmt: skip
def test_mounts(given: object, wanted: Volume) -> None:
    assert read_mount(given) == wanted


@pytest.mark.parametrize(
    "given",
    [
        "", "type=bind", "type=bind,src=/a", "type=bind,dst=/b", "type=bind,src=a,dst=/b", "type=bind,src=/a,dst=b",
        "type=bind,src=/a,dst=/b,ro=perhaps", "type=bind,src=/a,dst=/b,volume-nocopy", "type=tmpfs,dst=/b,src=/a",
        "type=tmpfs,dst=/b,tmpfs-mode=9", "type=tmpfs,dst=/b,tmpfs-size=x", "type=volume,dst=/b,volume-subpath=../x",
        "type=volume,dst=/b,volume-subpath=/x", "type=bind,src=/a,dst=/b,bind-propagation=loud", "src=/a,dst=/b\n,x",
        "type=bind,src=/a,dst=/b,bind-recursive=readonly", "type=bind,src=/a\0,dst=/b", 5, None, "nonsense",
    ],
)  # fmt: skip
def test_mounts_that_are_none(given: object) -> None:
    with pytest.raises(InvalidInput):
        read_mount(given)


@pytest.mark.parametrize(
    "given",
    [
        "type=image,src=x,dst=/b",
        "type=volume,src=data,dst=/b,volume-driver=nfs",
        "src=data,dst=/b,volume-opt=a=b",
    ],
)
def test_mounts_of_later(given: str) -> None:
    with pytest.raises(Unsupported):
        read_mount(given)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["/run"], ("nosuid", "nodev", "noexec")),
        (["/run:size=64k,mode=755"], ("nosuid", "nodev", "noexec", "size=64k", "mode=755")),
        (["/run:exec,dev,ro"], ("nosuid", "exec", "dev", "ro")),
        ({"/run": "uid=5"}, ("nosuid", "nodev", "noexec", "uid=5")),
        ({"/run": None}, ("nosuid", "nodev", "noexec")),
    ],
)
def test_tmpfs(given: object, options: tuple[str, ...]) -> None:
    assert read_tmpfs(given) == (Volume(b"tmpfs", b"/run", options, TMPFS),)


@pytest.mark.parametrize(
    "given", ["/run", ["run"], ["/"], ["/run:nonsense"], ["/run:size"], ["/run:ro=1"], [5]]
)
def test_tmpfs_that_are_none(given: object) -> None:
    with pytest.raises(InvalidInput):
        read_tmpfs(given)


def test_volumes_of_another_container() -> None:
    assert read_volumes_from(["a", "b:ro", "c:rw,z"]) == (("a", ""), ("b", "ro"), ("c", "rw,z"))
    for wrong in ([":ro"], ["a:rx"], ["a:ro,rw"], "a"):
        with pytest.raises(InvalidInput):
            read_volumes_from(wrong)


def test_read_only_is_the_last_word() -> None:
    assert read_only(read_volume("/a:/b:rw")).options == ("rbind", "rprivate", "rro")


def test_all_of_them_together_and_none_twice() -> None:
    asked = {"volumes": ["/a:/x"], "mounts": ["type=tmpfs,dst=/y"], "tmpfs": ["/z"]}
    assert [volume.target for volume in check_options(asked).volumes] == [b"/x", b"/y", b"/z"]
    with pytest.raises(InvalidInput, match="twice"):
        check_options({"volumes": ["/a:/x"], "tmpfs": ["/x/"]})


def test_whether_new_privileges_may_be_given() -> None:
    for asked, granted in (
        ([], False),
        (["no-new-privileges"], False),
        (["no-new-privileges:true"], False),
        (["no-new-privileges=false"], True),
    ):
        assert check_options({"security_opt": asked}).new_privileges is granted
    assert check_options({"security_opt": ["label=disable"]}).new_privileges is False
    with pytest.raises(InvalidInput):
        check_options({"security_opt": ["no-new-privileges=perhaps"]})


WORDS = st.text('abc=,:/.\\"\n\0é', max_size=30)


@given(st.one_of(WORDS.map(lambda text: f"type=bind,src=/a,{text}"), WORDS))
def test_anything_is_read_or_refused(text: str) -> None:
    for read in (read_volume, read_mount, lambda given: read_tmpfs([given])):
        try:
            read(text)
        except LaminaError as error:
            assert str(error)


def test_a_relative_source_is_the_callers() -> None:
    assert read_mount("type=bind,src=./x,dst=/b").source == os.fsencode(os.path.abspath("x"))


def test_an_option_of_mount_that_is_none_is_named() -> None:
    with pytest.raises(InvalidInput, match="there is no option 'sorce'"):
        read_mount("type=bind,sorce=/a,dst=/b")
