"""Exported generators: load, sample, translate, project."""
