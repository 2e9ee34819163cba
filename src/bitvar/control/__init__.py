"""Structure control: light adapters that make a frozen model follow a map of edges or lines."""
