"""What searches did: similarity, emergence, agreement, their figures, and their replay."""
