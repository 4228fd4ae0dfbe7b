"""Images as programs of the peers root write them, all with the same content: a base, and a layer that changes it.

The second layer removes, replaces a directory by a file and back, hides what was in a directory, changes an owner, and
links. `tree_of_tar` is what two unpacked images are compared by.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamina.store import layers
from lamina.store.images import ImageRecord
from lamina.store.root import Store
from support.engines import Docker, Podman
from support.image_archives import tree_tar
from support.peers import PeerRoot
from support.small_images import busybox_tree

# in the base: made in the root of the tree
BASE = """
mkdir -p data/dir/deep data/turned
for name in kept gone owned file dir/a dir/deep/b turned/x; do echo base >data/$name; done
touch -d @1700000000 data/kept
chown 1000:100 data/owned
chmod 4755 data/owned
"""
# what the second layer does; the busybox of the image understands it too
CHANGE = """
rm data/gone data/file
rm -r data/dir data/turned
mkdir data/dir data/file
echo c >data/dir/c
echo in >data/file/in
echo file >data/turned
echo changed >data/owned
chown 1000:100 data/owned
chmod 4750 data/owned
chown 12345:54321 data/dir
ln data/turned data/hard
ln -s ../etc/image data/link
"""
# what is seen when it runs
ASK = """
cd /data
cat owned dir/c file/in turned link
stat -c '%n %u:%g %a' owned dir
find . | sort | xargs echo
"""
ANSWER = """changed
c
in
file
busybox
owned 1000:100 4750
dir 12345:54321 755
. ./dir ./dir/c ./file ./file/in ./hard ./kept ./link ./owned ./turned
"""


def base_archive(place: Path) -> Path:
    """The base as a plain tar archive."""
    tree = place / "base"
    tree.mkdir()
    busybox_tree(tree)
    subprocess.run(["sh", "-ec", BASE], cwd=tree, check=True)
    (place / "base.tar").write_bytes(tree_tar(tree))
    return place / "base.tar"


class Written:
    """An image that a peer wrote: *sources* by skopeo's notation, each a file that can be loaded; *push* sends it."""

    def __init__(self, sources: dict[str, Path], push: Callable[[str], Any]) -> None:
        self.sources, self.push = sources, push


def by_umoci(root: PeerRoot, place: Path) -> Written:
    """umoci: a layout, unpacked, changed and repacked."""
    layout, bundle = place / "layout", place / "bundle"
    steps = (
        f"umoci init --layout {layout}",
        f"umoci new --image {layout}:1",
        f"umoci raw add-layer --image {layout}:1 {base_archive(place)}",
        f"umoci unpack --image {layout}:1 {bundle}",
        f"(cd {bundle}/rootfs; {CHANGE})",
        f"umoci repack --image {layout}:1 {bundle}",
        f"umoci config --image {layout}:1 --config.env PATH=/bin --config.cmd sh",
    )
    root.run(["sh", "-ec", "\n".join(steps)], check=True)

    def push(name: str) -> None:
        copy(root, f"oci:{layout}:1", f"docker://{name}")

    return Written({f"oci:{layout}:1": layout}, push)


def by_buildah(root: PeerRoot, place: Path) -> Written:
    """buildah: two commits of working containers that nothing ran in."""
    podman = Podman(root, place)  # for its storage
    archive = place / "buildah.tar"
    steps = (
        "first=$(buildah from scratch)",
        f"buildah add -q $first {base_archive(place)} /",
        "buildah config --env PATH=/bin --cmd sh $first",
        "buildah commit -q $first base",
        "second=$(buildah from --pull-never base)",
        "cd $(buildah mount $second)",
        CHANGE,
        "cd /",
        "buildah umount $second",
        "buildah commit -q $second changed",
        f"buildah push -q changed oci-archive:{archive}:changed",
    )
    root.run(["sh", "-ec", "\n".join(steps)], env=podman.env, check=True)

    def push(name: str) -> None:
        words = ["buildah", "push", "-q", "--tls-verify=false", "changed", f"docker://{name}"]
        root.run(words, env=podman.env, check=True)

    return Written({f"oci-archive:{archive}": archive}, push)


def by_podman(root: PeerRoot, place: Path) -> Written:
    """`podman build`, `run` and `commit`, saved in both forms."""
    podman = Podman(root, place)
    context = place / "context"
    context.mkdir()
    base_archive(context)
    (context / "Containerfile").write_text('FROM scratch\nADD base.tar /\nENV PATH=/bin\nCMD ["sh"]\n')
    podman("build", "-q", "-t", "base", str(context), check=True)
    podman("run", "--network=none", "--name", "made", "base", "sh", "-ec", f"cd /; {CHANGE}", check=True)
    podman("commit", "-q", "made", "changed", check=True)
    sources = {}
    for form in ("docker-archive", "oci-archive"):
        archive = place / f"podman-{form}.tar"
        podman("save", "-q", "--format", form, "-o", str(archive), "changed", check=True)
        sources[f"{form}:{archive}"] = archive

    def push(name: str) -> None:
        podman("push", "-q", "--tls-verify=false", "changed", f"docker://{name}", check=True)

    return Written(sources, push)


def by_docker(root: PeerRoot, place: Path) -> Written:
    """`docker import`, `run`, `commit` and `save`."""
    docker = Docker(root, place)
    docker("import", "-c", "ENV PATH=/bin", "-c", 'CMD ["sh"]', str(base_archive(place)), "base", check=True)
    docker("run", "--network=none", "--name", "made", "base", "sh", "-ec", f"cd /; {CHANGE}", check=True)
    docker("commit", "made", "changed", check=True)
    archive = place / "docker.tar"
    docker("save", "-o", str(archive), "changed", check=True)

    def push(name: str) -> None:
        docker("tag", "changed", name, check=True)
        docker("push", "-q", name, check=True)

    return Written({f"docker-archive:{archive}": archive}, push)


WRITERS = {"umoci": by_umoci, "buildah": by_buildah, "podman": by_podman, "docker": by_docker}


# -- looking at them -----------------------------------------------------------------------------------------------


def copy(root: PeerRoot, source: str, target: str, *options: str) -> None:
    """`skopeo copy`."""
    words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
    root.run([*words, *options, source, target], check=True)


def config_of(root: PeerRoot, source: str) -> bytes:
    """The image's config, byte by byte."""
    words = ["skopeo", "inspect", "--tls-verify=false", "--config", "--raw", source]
    return root.run(words, check=True).stdout.encode()


def id_of(root: PeerRoot, source: str) -> str:
    """The image's id: 64 hex digits."""
    return hashlib.sha256(config_of(root, source)).hexdigest()


def umocis_tree(root: PeerRoot, source: str, place: Path) -> dict[str, Any]:
    """What `umoci unpack` makes of an image."""
    place.mkdir()
    copy(root, source, f"oci:{place}/image:1")
    root.run(["umoci", "unpack", "--image", f"{place}/image:1", place / "bundle"], check=True)
    return tree_of_tar(subprocess.run(
        ["tar", "-C", place / "bundle/rootfs", "-c", "."], stdout=subprocess.PIPE, check=True
    ).stdout)  # fmt: skip


def our_tree(store: Store, record: ImageRecord) -> dict[str, Any]:
    """What is seen through an overlay of an image's layers; it is mounted where nobody else sees it."""
    paths = ":".join(layers.tree_of(store, one).decode() for one in reversed(record.layers))
    # a further lower: one alone is refused
    script = f'mkdir -p "$1" && mount -t overlay -o "lowerdir={paths}:$1" x "$1" && tar -C "$1" -c .'
    place = Path(os.fsdecode(store.path)).parent / "seen"
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(place)]
    return tree_of_tar(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)


def tree_of_tar(archive: bytes) -> dict[str, Any]:
    """Everything that matters of each entry; hard links by the names that belong together."""
    found: dict[str, Any] = {}
    links: dict[str, set[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            target = tar.getmember(member.linkname) if member.islnk() else member
            links.setdefault(target.name, set()).add(member.name)
            data = tar.extractfile(target) if target.isreg() else None
            found[member.name] = {
                "kind": target.type,
                "mode": oct(target.mode),
                "owner": (target.uid, target.gid),
                "target": target.linkname,
                "device": (target.devmajor, target.devminor),
                "data": hashlib.sha256(data.read()).hexdigest() if data else None,
                "time": None if target.isdir() else int(target.mtime),
            }
    for names in links.values():
        for name in names:
            found[name]["together"] = sorted(names)
    return found
