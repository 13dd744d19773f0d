"""Picture files: finding them, and decoding them within limits."""
