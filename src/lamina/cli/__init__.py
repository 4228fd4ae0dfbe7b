"""The command line: one file a verb, options declared once, nothing imported that a verb does not need."""
