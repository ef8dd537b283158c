"""The encoder that reads all modalities of a shot together."""
