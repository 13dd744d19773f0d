"""Fetching: official addresses, mirrors and package clients, each file checked by its SHA-256."""
