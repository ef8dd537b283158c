"""Video encoders: sampled frames of a shot in, its vector out."""
