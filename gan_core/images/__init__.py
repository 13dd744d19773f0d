"""Find picture files, decode them within limits, and convert pixels."""
