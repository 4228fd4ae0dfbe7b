"""Tables of options that more than one verb reads."""
