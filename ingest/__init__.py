"""Bytes in, graded readings out: dialects, resolving, batching and the MQTT source. Acknowledged only after the commit."""
