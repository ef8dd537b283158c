"""MediaFM in plain PyTorch and NumPy: fusion, the encoder, masked shot modelling, training, inference and probes."""
