"""How truly a generator draws scenes that it is asked for, by a judge that is independent of it."""
