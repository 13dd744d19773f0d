"""The evaluate stage: the figure of a trained generator, with the protocol it was measured under."""
