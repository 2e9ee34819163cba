"""Training of instruction editors: the transformer's task with a source image before every target."""
