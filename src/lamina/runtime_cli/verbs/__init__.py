"""One module a verb: what it accepts (VERB), and the doing (`do`)."""
