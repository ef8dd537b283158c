"""The assets: each module declares stages of the graph. A module put here is found (mediafm_assets/stages.py)."""
