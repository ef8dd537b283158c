"""Clip encoders: a clip's media in, one vector out. What others sell, to compare with on the same probes."""
