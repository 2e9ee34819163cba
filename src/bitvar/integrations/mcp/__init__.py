"""A server of the Model Context Protocol (extra `mcp`), so that agents can draw. `bitvar mcp` starts it."""
