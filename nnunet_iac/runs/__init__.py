"""Files of a run: names, typed rows to write and to read, atomic writes."""
