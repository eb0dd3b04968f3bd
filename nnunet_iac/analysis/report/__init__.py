"""What people read: runs, their evaluation, and the pages made of them."""
