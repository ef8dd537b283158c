"""Audio encoders: samples of a shot in, its vector out."""
