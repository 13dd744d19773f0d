"""The model registry: register a measured generator, promote it to champion, roll back."""
