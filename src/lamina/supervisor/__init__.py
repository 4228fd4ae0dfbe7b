"""Looks after a running container: its descriptors, its terminal, its log, the signals for it, and its end."""
