"""Gantry's pipelines: data in, distributed training and search, evaluation, tracking, registry."""
