"""Whether a container is well: a command that is executed in it now and then, and what is known by that.

`checks` says what was asked, `results` what came of it, `examining` executes one check, `examiner` does so in time.
"""
