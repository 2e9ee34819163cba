"""Serving: an engine that draws in a worker process, an HTTP API in front of it, and a page. It loads no torch."""
