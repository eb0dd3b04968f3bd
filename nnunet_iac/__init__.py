"""Implantable Adaptive Cells for nnU-Net: search skip connections for a trained U-Net."""

__version__ = "0.1.0"
