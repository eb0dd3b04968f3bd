"""Reports: runs, their evaluation, and the pages made of them."""
