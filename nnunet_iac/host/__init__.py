"""Interface to nnU-Net outside training: its plans, data sets, trainers and commands."""
