"""A world of real processes in which things break: database, broker, network, disk, ingest, and devices that count."""
