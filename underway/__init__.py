"""underway watches what lies under the way and on it: water networks and roads."""

__version__ = "0.1.0"
