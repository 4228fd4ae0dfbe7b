"""What people call our options who come from elsewhere: for the message that says there is none of that name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# subprocess.run's; then docker-py's, for containers.run and exec_run
_OURS = {
    "cwd": "workdir", "universal_newlines": "text",
    "auto_remove": "rm", "remove": "rm", "environment": "env", "working_dir": "workdir", "mem_limit": "memory",
    "memswap_limit": "memory_swap", "mem_reservation": "memory_reservation", "mem_swappiness": "memory_swappiness",
    "nano_cpus": "cpus", "ports": "publish", "publish_all_ports": "publish_all", "network_mode": "network",
    "extra_hosts": "add_hosts", "dns_opt": "dns_options", "domain_name": "domainname", "stdin_open": "interactive",
    "stdin": "interactive", "restart_policy": "restart", "healthcheck": "health_cmd", "log_config": "log_driver",
    "device_requests": "gpus", "ipc_mode": "ipc", "pid_mode": "pid",
    "uts_mode": "uts", "userns_mode": "userns",
}  # fmt: skip
# what has no option of ours
_INSTEAD = {
    "shell": "a command line is the command ['sh', '-c', line]",
    "executable": "the command's first word is what is executed",
    "args": "the command is the second argument",
    "cmd": "the command is the second argument",
    "detach": "Engine.start() is 'docker run -d', Container.exec_detached() 'docker exec -d'",
    "stream": "popen() gives the output as it comes",
    "demux": "capture_output=True gives both apart",
    "preexec_fn": "nothing of the caller runs in a container",
    "pass_fds": "a container gets the three standard streams",
    "close_fds": "a container gets the three standard streams",
    "start_new_session": "a container's command leads a session of its own",
    "timeout": "Process.wait() and Process.communicate() take one",
    "capture_output": "popen() takes stdout=PIPE, stderr=PIPE",
}


def unexpected(verb: str, key: str, known: Sequence[str]) -> TypeError:
    """The error for the option *key* of *verb*, which has those that are *known*; with what was probably meant."""
    from difflib import get_close_matches

    said = f"{verb}() got an unexpected keyword argument {key!r}"
    meant = _OURS.get(key)
    if meant in known or meant == "text":
        return TypeError(f"{said}; did you mean {meant!r}?")
    if key in _INSTEAD:
        return TypeError(f"{said}: {_INSTEAD[key]}")
    near = get_close_matches(key, known, n=1)
    return TypeError(f"{said}; did you mean {near[0]!r}?" if near else said)
