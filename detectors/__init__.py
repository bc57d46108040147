"""Readings to findings: pure, columnar, one method a file. No I/O, no clock."""
