"""The command on a root of its own, with everything that it leaves taken away at the end."""

from support.oci_fixtures import runtime, subreaper

__all__ = ["runtime", "subreaper"]
