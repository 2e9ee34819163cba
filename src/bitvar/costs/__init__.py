"""What models cost, by arithmetic: operations, memory, and what devices can do."""
