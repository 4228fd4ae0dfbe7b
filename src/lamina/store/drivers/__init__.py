"""Drivers: how a chain of layers becomes a root that can be written to, and how what was written becomes a layer.

The contract is `contract.Driver`; `overlay2` and `vfs` keep it, and lamina.testing.drivers is the suite that every
driver must pass.
"""
