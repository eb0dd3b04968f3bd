"""The mathematics of the search: frozen values and pure functions, without nnU-Net or files."""
