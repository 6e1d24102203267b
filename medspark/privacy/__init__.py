"""What may leave the hospital and what may not."""
