"""Measurements of what this project claims; see README.md in this folder."""
