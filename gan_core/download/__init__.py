"""Fetch files from URLs, mirrors and package registries; every file is checked by its SHA-256."""
