"""What networks scored: reading, paired statistics, comparisons."""
