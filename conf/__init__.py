"""The configurations: kept at the top of the tree for its users, and part of the wheel for their jobs."""
