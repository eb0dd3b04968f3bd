"""Timing: a step of the supernet, whole searches, and inference with cells."""
