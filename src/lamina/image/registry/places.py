"""Where people keep what they configured for docker and podman: nobody has to configure Lamina's registries again.

    registries.conf   $CONTAINERS_REGISTRIES_CONF; else ~/.config/containers/ or /etc/containers/, and registries.conf.d
    credentials       $REGISTRY_AUTH_FILE; else docker's config.json, then podman's auth.json
    certificates      certs.d/<host[:port]>/ below ~/.config/containers, /etc/containers, /etc/docker

(containers-registries.conf(5), containers-auth.json(5), containers-certs.d(5); docker's "Verify repository client with
certificates" and "docker login".)
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["Places"]


class Places:
    """The files and directories for one environment. `system` is where the system keeps its configuration."""

    def __init__(self, environment: Mapping[str, str] | None = None, system: str = "/etc") -> None:
        self.environment = os.environ if environment is None else environment
        self.system = system

    def _get(self, name: str) -> str:
        return self.environment.get(name) or ""

    @property
    def home(self) -> str:
        """The user's directory."""
        return self._get("HOME") or os.path.expanduser("~")

    @property
    def user_configuration(self) -> str:
        """$XDG_CONFIG_HOME, or ~/.config."""
        return self._get("XDG_CONFIG_HOME") or os.path.join(self.home, ".config")

    def registries(self) -> list[str]:
        """The files that say what to do with registries, in the order in which they are read: a later one wins."""
        if only := self._get("CONTAINERS_REGISTRIES_CONF"):
            return [only]
        own = os.path.join(self.user_configuration, "containers")
        shared = os.path.join(self.system, "containers")
        main = os.path.join(
            own if os.path.exists(os.path.join(own, "registries.conf")) else shared, "registries.conf"
        )
        found = [main] if os.path.exists(main) else []
        for directory in (shared, own):
            drop_ins = os.path.join(directory, "registries.conf.d")
            try:
                names = sorted(name for name in os.listdir(drop_ins) if name.endswith(".conf"))
            except OSError:
                continue
            found += [os.path.join(drop_ins, name) for name in names]
        return found

    @property
    def docker_configuration(self) -> str:
        """Docker's config.json."""
        return os.path.join(self._get("DOCKER_CONFIG") or os.path.join(self.home, ".docker"), "config.json")

    def credentials(self) -> list[str]:
        """The files with credentials, there or not, in the order in which they are asked. Login writes the first."""
        if only := self._get("REGISTRY_AUTH_FILE"):
            return [only]
        run = self._get("XDG_RUNTIME_DIR")
        podman = os.path.join(run, "containers") if run else f"/run/containers/{os.geteuid()}"
        return [
            self.docker_configuration,
            os.path.join(podman, "auth.json"),
            os.path.join(self.user_configuration, "containers", "auth.json"),
        ]

    def certificates(self, host: str) -> list[str]:
        """The directories with certificates for *host* (with its port, if it is named with one) that there are."""
        above = (
            os.path.join(self.user_configuration, "containers"),
            os.path.join(self.system, "containers"),
            os.path.join(self.system, "docker"),
        )
        found = [os.path.join(directory, "certs.d", host) for directory in above]
        return [directory for directory in found if os.path.isdir(directory)]
