"""A hook that may block prompts and images, with two checkers that work offline. No checker is on unless asked for."""
