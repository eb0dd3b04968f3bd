"""Pictures that several packages draw, and how figures become files."""
