"""The outside world: landing zone, Delta lake, media decoding, shot detection, embedding models, training jobs."""
