"""Real runs of the real program: `find` says which, mostly by CGROVE_BIN."""
