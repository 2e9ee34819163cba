"""Careless and hostile use, drawn by kind: each case says what may come of it, so that silence counts too."""
