"""Networks of containers: addresses, bridges, links, rules. Not what a container is: it gets ids, names and paths."""
