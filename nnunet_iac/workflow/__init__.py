"""Studies of many runs: what is trained, in which order, and what comes of it together."""
