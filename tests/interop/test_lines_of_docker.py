"""A day's lines, typed at docker and at Lamina: the same output, the same exit status.

Each line is one command line after the program's name. Both are done with the same image, without a network, and with
no terminal. Where docker ends with 1 because its daemon refuses, Lamina may end with 125 (docs/docker.md); words of
errors are each engine's own, but both say something then. What differs on purpose is in docs/docker.md and not here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.engines import Docker
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.peers import PeerRoot
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]

RUN = r"""
run --rm tiny echo hi
run --rm -t tiny sh -c 'echo hi; tty'
run --rm -it tiny true
run --rm -- tiny echo hi
run --rm tiny sh -c 'echo out; echo err >&2; exit 3'
run --rm -a stdout tiny sh -c 'echo out; echo err >&2'
run --rm -a stderr tiny sh -c 'echo out; echo err >&2'
run --rm -astdout -a STDERR tiny sh -c 'echo out; echo err >&2'
run --rm -d -a stdout tiny true
run --rm -a nothing tiny true
run --rm tiny sh -c 'exit 300'
run --rm tiny sh -c 'kill -9 $$'
run --rm tiny sh -c 'kill -TERM $$; echo survived'
run --rm tiny nosuch
run --rm tiny /etc
run --rm tiny /etc/passwd
run --rm -e=A=1 --env B=2 -eC=3 -e D= -e NOT_THERE --env=E='x y' -h box tiny sh -c 'env | sort'
run --rm -e =x tiny env
run --rm -e '' tiny env
run --rm --env-file files/env -e Y=3 -h box tiny env
run --rm --env-file files/wrong tiny env
run --rm --entrypoint sh tiny -c 'echo hi'
run --rm --entrypoint= tiny echo hi
run --rm --entrypoint '' tiny
run --rm tiny pwd
run --rm -w=/no/such tiny pwd
run --rm -w relative tiny pwd
run --rm -w '' -u '' -h '' --restart '' --platform '' --domainname '' tiny pwd
run --rm -u 5 tiny id
run --rm -u 5:7 tiny id
run --rm -u ann tiny id
run --rm -u ann:bin tiny id
run --rm -u ann --group-add tape --group-add 99 tiny id
run --rm -u nosuch tiny id
run --rm --group-add nosuch tiny id
run --rm -h box tiny hostname
run --rm --hostname a.b.c --domainname d.e tiny hostname
run --rm -v /x tiny ls -d /x
run --rm -v name:/x:ro,z tiny touch /x/a
run --rm -v=name:/x tiny touch /x/a
run --rm -v name:/x:bogus tiny true
run --rm -v name:x tiny true
run --rm -v name:/ tiny true
run --rm -v a:b:c:d tiny true
run --rm -v relative/path:/x tiny true
run --rm --mount type=bind,source=/etc,target=/x,readonly tiny touch /x/a
run --rm --mount type=bind,src=/nosuch,dst=/x tiny true
run --rm --mount type=bind,dst=/x tiny true
run --rm --mount type=volume,src=v1,dst=/x,volume-nocopy tiny ls -d /x
run --rm --mount src=v1,dst=/x,ro tiny touch /x/a
run --rm --mount type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=700 tiny stat -c %a /x
run --rm --mount type=tmpfs,src=/etc,dst=/x tiny true
run --rm --mount bogus tiny true
run --rm --tmpfs /x:size=1m,mode=700 tiny stat -c %a /x
run --rm --tmpfs /x:bogus tiny true
run --rm --read-only tiny touch /x
run --rm --device /dev/zero:/dev/foo:r tiny ls /dev
run --rm --ulimit nofile=100 tiny sh -c 'ulimit -n'
run --rm --ulimit nofile=10:5 tiny true
run --rm -m=64m -c 512 --cpus 0.5 --pids-limit 20 tiny true
run --rm -m 1m tiny true
run --rm --memory 64m --memory-swap 32m tiny true
run --rm --cpus 100 tiny true
run --rm --rm=1 -i=0 -it=false tiny true
run --rm=x tiny true
run --rm --restart always tiny true
run --rm --stop-signal BOGUS tiny true
run --rm --label =d tiny true
run --rm --network nosuch tiny true
run --rm --pull bogus tiny true
run --rm --pull never nosuch true
run --rm --platform bogus tiny true
run --rm --volumes-from nosuch tiny true
run --rm --no-healthcheck --sig-proxy=false tiny true
run --rm --oom-score-adj 5000 tiny true
run --rm --nosuch tiny true
run --name '' --rm tiny echo hi
run --name a/b tiny true
"""

LISTS = r"""
run -d --name aa --label x=1 --label y=2 -e A=1 -v vol:/v tiny sh -c 'echo out; echo err >&2; exec sleep 1000'
run -itd --name=ab tiny
create --name ac --entrypoint sh tiny -c 'exit 3'
run --name ad tiny sh -c 'exit 3'
run --name ad tiny true
ps --format '{{.Names}} {{.State}} {{.Image}}'
ps -a --format '{{.Names}}|{{.Image}}|{{.State}}|{{.LocalVolumes}}|{{.Mounts}}'
ps -a --format 'table {{.Names}}\t{{.State}}' --filter name=^a[ab]$
ps -a --format '{{upper .Names}} {{printf "%-4s|%q" .Names .State}} {{len .Names}}'
ps -a --format '{{range $i, $e := split .Names "a"}}{{$i}}={{$e}};{{end}}'
ps -a --format '{{truncate .Names 1}}|{{pad .Names 2 3}}|{{title .State}}|{{join (split .Names "a") "-"}}'
ps -a --format '{{if eq .State "running"}}{{.Names}}{{else}}-{{end}}'
ps -a --format '{{.Label "x"}}/{{.Label "nope"}}'
ps -a --format '{{.Names}} {{.Command}} {{len .CreatedAt}}'
ps -a --format '{{.Names}} {{.Command}}' --no-trunc
ps -a --format 'table {{.Command}}\t{{.Names}}'
ps -a --format '{{json .Command}}'
run -d --name ae --expose 95-97 --expose 90/udp --expose 100 --expose 98 --expose 96 tiny echo 'a "b" \n $c ü'
ps -a --format '{{.Command}}' -f name=ae
ps -a --no-trunc --format '{{.Command}}' -f name=ae
run -d --name mounts -v vol:/v -v vol:/w:ro -v /etc:/e -v /etc:/f:ro tiny sleep 1000
inspect -f '{{range .Mounts}}{{if eq .Destination "/v"}}{{.Mode}}|{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
inspect -f '{{range .Mounts}}{{if eq .Destination "/w"}}{{.Mode}}|{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
inspect -f '{{range .Mounts}}{{if eq .Destination "/e"}}{{.Mode}}|{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
inspect -f '{{range .Mounts}}{{if eq .Destination "/f"}}{{.Mode}}|{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
inspect -f '{{range .HostConfig.Binds}}{{if eq . "/etc:/f:ro"}}{{.}}{{end}}{{end}} {{len .HostConfig.Binds}}' mounts
inspect -f '{{range .HostConfig.Binds}}{{if eq . "vol:/w:ro"}}{{.}}{{end}}{{end}} {{json .Config.Volumes}}' mounts
inspect -f '{{.HostConfig.CapAdd}} {{json .HostConfig.CapAdd}} {{.HostConfig.VolumesFrom}}' mounts
inspect -f '{{.HostConfig.Tmpfs}} {{.Config.Entrypoint}} {{.Config.ExposedPorts}} {{.State.Health}}' mounts
inspect -f '{{.HostConfig.SecurityOpt}} {{.HostConfig.GroupAdd}} {{.Config.Healthcheck}}' mounts
rm -f mounts ae
run -d --name mounts --mount type=bind,src=/etc,dst=/g,readonly --mount src=vol,dst=/h --mount type=tmpfs,dst=/t tiny
inspect -f '{{range .Mounts}}{{if eq .Destination "/g"}}{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
inspect -f '{{range .Mounts}}{{if eq .Destination "/h"}}{{.Mode}}|{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
inspect -f '{{range .Mounts}}{{if eq .Destination "/t"}}{{.Mode}}|{{.RW}}|{{.Propagation}}{{end}}{{end}}' mounts
rm -f mounts
images --format '{{len .CreatedAt}}' tiny:1
network ls --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}}' -f driver=host -f driver=null
network ls -f driver=null --format '{{.Name}} {{len .ID}}'
network ls -f type=custom --format '{{.Name}}'
network ls -f type=bogus
network ls -q --no-trunc -f driver=null
network ls -qf driver=host
network ls -f driver=null --format '{{.IPv6}}'
network create other
network inspect -f '{{.Name}} {{.Driver}} {{len .Id}} {{.Internal}}' other
network rm other nosuch
network create other
network prune -f --filter label=nosuch
network prune -f
network prune -f
network prune -f --filter bogus=1
network inspect -f '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}} {{.Containers}}' host none
network rm host
ps -a --format '{{.Nope}}'
ps -a --format '{{.Names'
ps -a --format '{{json .Names}}'
ps -n=2 --format '{{.Names}}'
ps -l --format '{{.Names}}'
ps -aqf name=ac -f name=ad
ps -as --format '{{.Names}} {{.Size}}' -f status=created
ps -a --filter status=exited --format '{{.Names}}'
ps -a --filter name=/aa --format '{{.Names}}'
ps -a --filter 'name=a[ab]' --filter name=ac --format '{{.Names}}'
ps -a --filter exited=3 --format '{{.Names}}'
ps -a --filter label=x=1 --filter label=y=3 --format '{{.Names}}'
ps -a --filter ancestor=tiny:1 --format '{{.Names}}'
ps -a --filter before=ac --format '{{.Names}}'
ps -a --filter since=ac --format '{{.Names}}'
ps -a --filter volume=/v --format '{{.Names}}'
ps -a --filter health=none --format '{{.Names}}'
ps -a --filter status=bogus
ps -a --filter bogus=1
ps -a --filter bogus
ps extra
inspect -f '{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}}' aa ad
inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}' aa
inspect -f '{{with .State.Health}}{{.Status}}{{end}}' aa
inspect -f '{{index .Config.Labels "x"}} {{index .Config.Labels "nope"}}' aa
inspect -f '{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}' aa
inspect -f '{{json .Config.Labels}}' aa
inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.Driver}} {{.RW}}{{end}}' aa
inspect -f '{{.Path}} {{.Args}} {{len .Args}} {{join .Args "|"}}' aa
inspect -f '{{.Config.Cmd}}|{{json .Config.Entrypoint}}|{{.Config.WorkingDir}}|{{.Config.User}}|{{.Config.Image}}' aa
inspect -f '{{.Config.Tty}} {{.Config.OpenStdin}}' ab
inspect -f '{{.HostConfig.RestartPolicy.Name}}|{{.HostConfig.AutoRemove}}|{{.HostConfig.Memory}}' aa
inspect -f '{{.HostConfig.Binds}}|{{.HostConfig.Privileged}}|{{.HostConfig.ReadonlyRootfs}}' aa
inspect -f '{{.RestartCount}} {{.Platform}} {{.Driver}} [{{.MountLabel}}{{.ProcessLabel}}{{.AppArmorProfile}}]' aa
inspect -f '{{eq .State.ExitCode 0}} {{and .State.Running (not .State.Paused)}}' aa
inspect -f '{{.State.StartedAt}} {{.State.FinishedAt}}' ac
inspect -s -f '{{.SizeRw}}' ac
inspect -f '{{.Config.Nope}}' aa
inspect --type image -f '{{.Os}} {{.Architecture}} {{.RepoTags}} {{len .RootFS.Layers}}' tiny
inspect --type container tiny
inspect --type bogus aa
inspect nosuch
container inspect -f '{{.State.Status}}' aa
container inspect tiny
image inspect -f '{{.Config.Labels}} {{.Config.Env}}' tiny
image inspect aa
volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' vol
volume inspect nosuch
logs aa
logs -n 0 aa
logs --tail 1 ad
logs --tail=all aa
logs --tail -1 aa
logs --since 10m aa
logs --since 2030-01-01 aa
logs --until 10m aa
logs --since 1h30m --until 0s aa
logs --since 2020-01-01T00:00:00Z --until 2030-01-01T00:00:00+01:00 aa
logs --since bogus aa
logs --details aa
logs -f ad
logs -f ac
logs nosuch
port aa
port nosuch
stats --no-stream --format '{{.Name}} {{.PIDs}}' aa
stats --no-stream nosuch
info -f '{{.ContainersRunning}} {{.Containers}} {{.ContainersPaused}} {{.ContainersStopped}} {{.OSType}} {{.NCPU}}'
info -f '{{.Architecture}} {{.CgroupDriver}} {{.Swarm.LocalNodeState}} {{.Driver}} {{.MemTotal}} {{.KernelVersion}}'
history --human=false --format '{{.CreatedAt}}' tiny
history -q --no-trunc tiny
images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}' tiny
images --format 'table {{.ID}}\t{{.CreatedSince}}' tiny:1
images -q tiny:1
images nosuch -q
images -f reference='ti*' --format '{{.Tag}}'
images -f dangling=true -q
images -f bogus=1
"""

EXEC = r"""
run -d --name aa -e A=1 -w /etc tiny sh -c 'exec sleep 1000'
run -dit --name at tiny sh
create --name ac tiny sh
exec aa sh -c 'echo out; echo err >&2; exit 7'
exec -it aa true
exec -t aa tty
exec -i aa cat
exec -d aa touch /tmp/made
exec aa sh -c 'until test -e /tmp/made; do :; done; ls /tmp'
exec aa
exec nosuch true
exec ac true
exec aa id
exec -u ann aa id
exec -u=5:7 aa id
exec aa pwd
exec -w=/home aa pwd
exec -w '' aa pwd
exec -e=B=2 -eC=3 -e D= -e NOT_THERE aa sh -c 'echo $A $B $C $D'
exec -e =x aa env
exec --env-file files/env aa sh -c 'echo $X $Y $Z'
exec --env-file files/wrong aa true
exec -- aa echo hi
exec aa sh -c 'kill -9 $$'
exec at tty
attach ac
attach at
stats --no-stream --format '{{.Container}} {{.Name}}' aa
inspect -f '{{.HostConfig.RestartPolicy}} {{.NetworkSettings.Gateway}}' aa
events --since 1h --until 0s -f container=aa -f event=create --format '{{.Status}} {{.From}} {{.Scope}} {{.Type}}'
inspect --type network -f '{{.Name}} {{.Driver}}' host
inspect -f '{{.Driver}}' none
attach nosuch
top nosuch
top ac
pause aa nosuch ac
ps --format '{{.Names}} {{.State}}' --filter status=paused
pause aa
exec aa true
unpause aa
unpause aa
update -m 64m --memory-swap 64m aa
update --restart always aa at
update --restart bogus aa
update aa
inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Memory}}' aa
update --restart no aa at
diff ac
rename ac at
rename ac ac
rename ac a/b
rename nosuch zz
rename ac zz
rename /zz ac
stop -t 0 nosuch aa
stop /aa
start aa
start nosuch aa
start -a ac at
start -a nosuch
restart nosuch aa -t 0
kill -s BOGUS aa
kill nosuch ac aa
wait aa
wait aa nosuch ac
rm nosuch ac
rm at
rm -f at
rm -f nosuch
rm -fv aa
rm a
ps -aq
"""

KEPT = r"""
create --name aa -v vol:/v --label x=1 tiny sh
commit -q nosuch
tag tiny new:tag
tag tiny example.org:5000/a/b:c
tag nosuch x
tag tiny 'Bad Name'
rmi new:tag
rmi nosuch
rmi nosuch example.org:5000/a/b:c
commit -c 'ENTRYPOINT ["echo"]' aa en:1
image inspect -f '{{.Config.Entrypoint}} {{.Config.Cmd}}' en:1
commit -c 'CMD ["a"]' -c 'ENTRYPOINT ["echo"]' aa en:2
image inspect -f '{{.Config.Entrypoint}} {{.Config.Cmd}}' en:2
run --rm en:2
save nosuch
load -i nosuch
import nosuch.tar
volume create vv
volume create vv
volume create -d local v4
volume create --label a=b v5
volume create 'bad name'
volume ls -q -f label=a
volume ls --format '{{.Name}} {{.Driver}}' -f name=v
volume ls --format 'table {{.Name}}\t{{.Driver}}' -f label=a=b
volume ls -f bogus=1
volume rm nosuch vv
volume rm vol
volume rm -f nosuch
volume create last
volume prune -f --all --filter label=nosuch
volume prune -f
cp aa:/etc/group out
cp -q aa:/etc/group out
cp aa:/nosuch out
cp nosuch:/x out
cp a b
cp aa:/a aa:/b
cp files/env aa:/tmp
cp files/nosuch aa:/tmp
cp aa:/tmp/env out2
export nosuch
container prune -f --filter bogus=1
events --since bogus --until 0s
logout registry.invalid.example
pull Bad:Name
nosuchverb
rm aa
volume rm v4 v5 vol
"""

DAYS = {"run": RUN, "lists": LISTS, "exec": EXEC, "kept": KEPT}
# docker says its own of these: whether somebody was logged in, and nothing but its error of a command that is not there
OUTPUT_IS_ITS_OWN = ("logout",)


class Plain(Docker):
    """docker with Debian's runc."""

    def words_for_the_runtime(self) -> list[str]:
        return []


Say = Callable[..., "subprocess.CompletedProcess[str]"]


def said(engine: Say, lines: list[str]) -> list[tuple[int, str, bool]]:
    """Of each line: its exit status, its output, whether it said something on standard error."""
    found = []
    for line in lines:
        done = engine(*shlex.split(line))
        out = re.sub(r"\b(sha256:)?([0-9a-f]{64}|[0-9a-f]{12})\b", "ID", done.stdout)
        # columns of a table are never narrower than eight letters there
        found.append((done.returncode, re.sub("   +", "   ", out), bool(done.stderr)))
    return found


def alike(line: str, theirs: tuple[int, str, bool], ours: tuple[int, str, bool]) -> bool:
    if line.split()[0] in OUTPUT_IS_ITS_OWN:
        return theirs[0] == ours[0]
    if theirs[0] in (1, 125) and theirs[2]:
        # a template that fails has docker end its line first
        return ours[0] in (theirs[0], 125) and ours[2] and ours[1].strip() == theirs[1].strip()
    return theirs[:2] == ours[:2]


@pytest.mark.parametrize("day", DAYS)
def test_the_same_line_to_both(day: str, peer_root: PeerRoot, tmp_path: Path, store_root: Path) -> None:
    tree, files = tmp_path / "tree", tmp_path / "files"
    tree.mkdir()
    busybox_tree(tree)
    for name in ("tty", "stty"):
        (tree / "bin" / name).symlink_to("busybox")
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/tmp", "Labels": {"a": "one"}}
    source = ImageSource(tree_tar(tree), config=config)
    (tmp_path / "image.tar").write_bytes(tar(*old_docker((source, ["tiny:1", "tiny:latest"]))))
    files.mkdir()
    (files / "env").write_text("X=1\n# a comment\n Y=2 \n\nNOT_THERE\nZ='q'\n")
    (files / "wrong").write_text("X Y=1\n")
    docker = Plain(peer_root, tmp_path)
    docker("rmi", "box", check=True)

    def theirs(*words: str) -> subprocess.CompletedProcess[str]:
        return docker(*words, cwd=tmp_path / "theirs")

    def ours(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "lamina", *words]
        return subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200, cwd=tmp_path / "ours"
        )

    lines = [f"load -q -i {tmp_path}/image.tar", *DAYS[day].strip().splitlines()]
    found = {}
    for name, engine in (("theirs", theirs), ("ours", ours)):
        (tmp_path / name).mkdir()
        os.symlink(files, tmp_path / name / "files")
        try:
            found[name] = said(engine, lines)
        finally:
            left = engine("ps", "-aq").stdout.split()
            engine("rm", "-f", "box", *left)
    different = [
        f"{line}\n  docker {a}\n  lamina {b}"
        for line, a, b in zip(lines, found["theirs"], found["ours"], strict=True)
        if not alike(line, a, b)
    ]
    assert not different, "\n".join(different)
