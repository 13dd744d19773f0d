"""Metrics of generators: FID, KID and others. Every figure carries the protocol it was measured by."""
