"""The phases of a run, the frozen backbone, and the trainers nnU-Net finds."""
