"""What a run leaves on disk: file names, typed rows to write and to read, atomic writes."""
