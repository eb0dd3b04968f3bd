"""Modules: candidate operations, cells, and the surgery that implants them into a U-Net."""
