"""Scores of networks: reading, paired statistics, comparisons."""
