"""Where and how models run: devices, precisions and fused attention."""
