"""What is asked of nnU-Net outside training: plans in, trainers found, stock commands run."""
