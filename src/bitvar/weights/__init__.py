"""Reading and writing weights: model folders, the hub and the official files."""
