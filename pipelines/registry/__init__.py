"""The model registry: registering a measured generator, promoting it to champion, and undoing that."""
