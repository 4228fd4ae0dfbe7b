"""The engine for event loops: `AsyncEngine` and what it gives.

A loop's thread never waits in the kernel here. What is waited for (an end, output, an event) is waited for by the
loop, through descriptors; what may have to wait for a disk or a lock is done by a few threads (`threads`). What a verb
does is written once, in the engine: what is here says only who waits for it (decision 0044).
"""

from __future__ import annotations
