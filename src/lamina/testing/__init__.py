"""For those who write parts of their own for Lamina: the suites that such a part must pass."""
