"""The command `lamina-runtime`: what containerd, podman, CRI-O and Docker take for runc."""
