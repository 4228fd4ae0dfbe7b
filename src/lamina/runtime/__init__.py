"""Starting a container from a bundle: compiled into a plan of system calls, then run. Knows no images, no store."""
