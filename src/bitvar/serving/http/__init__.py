"""The HTTP API: OpenAI's image routes and their streams, A1111's routes, health, metrics and the page."""
