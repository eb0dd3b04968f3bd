"""Courses of searches: similarity, emergence, agreement, their figures, and their replay."""
