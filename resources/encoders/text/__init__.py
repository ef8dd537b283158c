"""Text encoders: texts in, their vectors out."""
