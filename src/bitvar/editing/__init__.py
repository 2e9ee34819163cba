"""Editing: what to keep of an image, and what a prompt changes in it. Importing it loads no torch."""
