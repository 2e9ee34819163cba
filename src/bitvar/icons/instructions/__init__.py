"""Instructions on icon scenes: triples to train on, and their benchmark."""
