"""Train a GAN: gan_core's trainer under Ray Train."""
