"""XTinyU-Net (arXiv 2605.09639): the width of a U-Net, chosen before training."""
