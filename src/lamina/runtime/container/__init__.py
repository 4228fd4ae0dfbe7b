"""The life of an OCI container: created, running, paused, stopped, and every step between, without a daemon.

    directory   what is kept of a container, and which state follows from it
    birth       how a process that outlives us is made, and what it says meanwhile
    create      from a bundle to a container that waits for its start
    begin       start it
    join        a further process in it
    ending      signals, and the end

https://github.com/opencontainers/runtime-spec/blob/main/runtime.md
"""
