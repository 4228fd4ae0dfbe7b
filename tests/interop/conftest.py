"""Other engines, in a root of their own."""

from support.peers import make_peer_root, peer_root

__all__ = ["make_peer_root", "peer_root"]
