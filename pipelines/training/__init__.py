"""The train stage: gan_core's trainer under Ray Train."""
