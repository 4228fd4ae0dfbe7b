"""The warm process: everything that commands import, imported once, and a process forked for each of them.

`entry` is the process, `worker` what becomes of the one that takes a command, `request` what a client sends
(cli/warm_client.h), `surroundings` whether that client lives as this process does, `place` where its socket is, and
`control` what a user may want of it. It knows no command: the face whose commands it does is named to it.
"""
