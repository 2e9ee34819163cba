"""Scaling studies: runs that differ in size, bits or steps, their losses and scores, and power laws through them."""
