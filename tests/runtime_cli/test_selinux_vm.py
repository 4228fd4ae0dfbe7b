"""SELinux labels, on a kernel that enforces a policy (`make test-vm`): processes, further ones, and mounts.

The policy is the test's own: who is not a `jailed_t` may do everything, and a `jailed_t` may not read a `secret_t`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.oci import Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.vm]
SELINUX = Path("/sys/fs/selinux")
FREE, JAILED, SECRET = "u:r:free_t", "u:r:jailed_t", "u:r:secret_t"
CURRENT = "/proc/self/attr/current"
LOOK = f"tr -d '\\000' <{CURRENT}; echo; cat /secret || true; echo seen >/tmp/a; cat /tmp/a"
# access classes that the policy does not have are not asked for (handleunknown)
POLICY = """
(handleunknown allow)
(mls false)
(policycap open_perms)
(policycap nnp_nosuid_transition)
(class process (transition dyntransition setexec sigchld noatsecure siginh rlimitinh))
(class file (read write open getattr execute entrypoint append create map execute_no_trans))
(class filesystem (mount associate relabelfrom relabelto))
(classorder (process file filesystem))
(sid kernel) (sid security) (sid unlabeled) (sid file)
(sidorder (kernel security unlabeled file))
(sensitivity s0) (sensitivityorder (s0)) (level low (s0)) (levelrange lows (low low))
(user u) (role r) (type free_t) (type jailed_t) (type secret_t)
(roletype r free_t) (roletype r jailed_t) (roletype r secret_t)
(userrole u r) (userlevel u low) (userrange u lows)
(typeattribute every) (typeattributeset every (free_t jailed_t secret_t))
(typeattribute plain) (typeattributeset plain (free_t jailed_t))
(context free (u r free_t lows))
(sidcontext kernel free) (sidcontext security free) (sidcontext unlabeled free) (sidcontext file free)
(fsuse xattr ext4 free) (fsuse trans tmpfs free) (fsuse trans devpts free)
(allow every every (process (all)))
(allow free_t every (file (all)))
(allow jailed_t plain (file (all)))
(allow every every (filesystem (all)))
"""


@pytest.fixture(scope="module", autouse=True)
def policy(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Loaded and enforced, for as long as the machine runs."""
    if not (SELINUX / "enforce").exists():
        subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", SELINUX], check=True)
    place = tmp_path_factory.mktemp("policy")
    (place / "policy.cil").write_text(POLICY)
    subprocess.run(
        ["secilc", "-c", "33", "-o", "policy", "-f", "contexts", "policy.cil"], cwd=place, check=True
    )
    (SELINUX / "load").write_bytes((place / "policy").read_bytes())
    (SELINUX / "enforce").write_text("1")
    assert (SELINUX / "enforce").read_text() == "1"


def guarded(runtime: Runtime, script: str, **process: object) -> Bundle:
    bundle = runtime.shell(script, **process)
    secret = bundle.rootfs / "secret"
    secret.write_text("told\n")
    os.setxattr(secret, "security.selinux", SECRET.encode() + b"\0")
    return bundle


@pytest.mark.parametrize("new_privileges", [False, True])
def test_the_first_process_is_labelled_from_its_first_instruction(
    runtime: Runtime, new_privileges: bool
) -> None:
    bundle = guarded(runtime, LOOK, selinuxLabel=JAILED, noNewPrivileges=not new_privileges)
    runtime.begin("c", bundle)
    runtime.wait("c", patience=60)
    assert runtime.output("c").splitlines() == [JAILED, "seen"]
    assert "/secret: Permission denied" in (runtime.directory / "c.err").read_text()


def test_nobody_is_labelled_who_did_not_ask_for_it(runtime: Runtime) -> None:
    runtime.begin("c", guarded(runtime, LOOK))
    runtime.wait("c", patience=60)
    assert runtime.output("c").splitlines() == [FREE, "told", "seen"]


def test_a_further_process_is_labelled_as_the_container_or_as_it_asks(runtime: Runtime) -> None:
    runtime.begin("c", guarded(runtime, "exec sleep 600", selinuxLabel=JAILED))
    done = runtime.ask("exec", "c", "/bin/sh", "-c", LOOK)
    assert (done.stdout.splitlines(), done.returncode) == ([JAILED, "seen"], 0)
    assert "/secret: Permission denied" in done.stderr
    done = runtime.ask("exec", "--process-label", FREE, "c", "/bin/sh", "-c", LOOK)
    assert done.stdout.splitlines() == [FREE, "told", "seen"]


def test_a_hook_inside_is_labelled_as_the_container(runtime: Runtime) -> None:
    bundle = guarded(runtime, "exec sleep 600", selinuxLabel=JAILED)
    (bundle.rootfs / "told").mkdir()
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"exec >/told/it; {LOOK}"], "env": ["PATH=/usr/bin:/bin"]}
    bundle.config["hooks"] = {"startContainer": [hook]}
    runtime.begin("c", bundle)
    assert (bundle.rootfs / "told/it").read_text().splitlines() == [JAILED, "seen"]


def test_a_label_that_the_policy_has_not_is_named(runtime: Runtime) -> None:
    with pytest.raises(AssertionError, match="SELinux label u:r:nobody_t: the kernel does not know it"):
        runtime.create("c", guarded(runtime, "true", selinuxLabel="u:r:nobody_t"))
    runtime.begin("c", guarded(runtime, "exec sleep 600", selinuxLabel=JAILED))
    done = runtime.ask("exec", "--process-label", "u:r:nobody_t", "c", "true")
    assert (done.returncode, runtime.status("c")) == (255, "running")
    assert "SELinux label u:r:nobody_t: the kernel does not know it" in done.stderr


def test_new_file_systems_are_labelled(runtime: Runtime) -> None:
    """linux.mountLabel: who may not read a secret_t does not read a tmpfs of that label."""
    bundle = guarded(runtime, "echo a >/mnt/a; ls -Z -d /dev /mnt; cat /mnt/a", selinuxLabel=FREE)
    bundle.config["linux"]["mountLabel"] = SECRET
    mount = {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}
    bundle.config["mounts"].append(mount)
    runtime.begin("free", bundle)
    runtime.wait("free", patience=60)
    assert runtime.output("free").splitlines() == [f"{SECRET} /dev", f"{SECRET} /mnt", "a"]
    bundle.config["process"].update(selinuxLabel=JAILED, args=["/bin/sh", "-c", "echo a >/mnt/a || echo no"])
    bundle.config["linux"]["mountLabel"] = SECRET
    runtime.begin("jailed", bundle)
    runtime.wait("jailed", patience=60)
    assert runtime.output("jailed") == "no\n"
