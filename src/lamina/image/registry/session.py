"""All registries, as configured for one user: who asks for a repository gets it with its mirrors and credentials."""

from __future__ import annotations

from types import TracebackType

from lamina.errors import NotFound
from lamina.image.documents.reading import DEFAULT_LIMITS, Limits
from lamina.image.reference import Reference, parse
from lamina.image.registry.client import Registry
from lamina.image.registry.configuration import Endpoint, read_configuration
from lamina.image.registry.credentials import Credentials, Login
from lamina.image.registry.places import Places
from lamina.image.registry.tls import Tls
from lamina.image.registry.transport import Patience, Transport

__all__ = ["Registries"]


class Registries:
    """The registries of one user. *verify* False: neither certificates nor encryption are insisted on.

    Configuration is read when it is needed, credentials are looked up for each repository. Close it, or use `with`.
    """

    def __init__(
        self,
        places: Places | None = None,
        *,
        verify: bool = True,
        patience: Patience | None = None,
        transport: Transport | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.places = places or Places()
        self.verify, self.limits = verify, limits
        self.transport = transport or Transport(Tls(self.places, verify=verify), patience)
        self.credentials = Credentials(self.places)

    def repositories(self, reference: Reference, *actions: str, login: Login | None = None) -> list[Registry]:
        """Where the repository of *reference* is, in the order to ask: mirrors only if all that is wanted is to pull.

        Raises RegistryError (blocked), InvalidInput (configuration).
        """
        actions = actions or ("pull",)
        endpoints = read_configuration(self.places).endpoints(reference, mirrors=actions == ("pull",))
        return [self._registry(endpoint, actions, login) for endpoint in endpoints]

    def _registry(self, endpoint: Endpoint, actions: tuple[str, ...], login: Login | None) -> Registry:
        if login is None:
            login = self.credentials.find(endpoint.host, endpoint.repository)
        return Registry(
            endpoint, self.transport, login, actions=actions, verify=self.verify, limits=self.limits
        )

    def login(self, host: str, login: Login) -> str:
        """Find out whether the registry takes *login*, and keep it; where it is kept.

        Raises RegistryError (it does not), InvalidReference, InvalidInput.
        """
        host = registry_name(host)
        reference = parse(f"{host}/lamina/login")
        registry = self.repositories(reference, "pull", "push", login=login)[-1]
        registry.check_login()
        return self.credentials.save(host, login)

    def logout(self, host: str) -> list[str]:
        """Forget the credentials for the registry; where they were. Raises NotFound if there were none."""
        host = registry_name(host)
        gone = self.credentials.forget(host)
        if not gone:
            raise NotFound(f"log out of {host}: not logged in")
        return gone

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()

    def __enter__(self) -> Registries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def registry_name(text: str) -> str:
    """The registry that somebody names to log in to: a host, or an address of it; "" is Docker Hub's.

    Raises InvalidReference.
    """
    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0] or "docker.io"
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = "docker.io"
    if "." not in host and ":" not in host and host != "localhost":
        return parse(f"{host}:443/x").registry.removesuffix(":443")  # a name in the local network, as it is
    return parse(f"{host}/lamina/x").registry
