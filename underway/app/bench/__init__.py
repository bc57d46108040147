"""Measure this installation side by side with what it could reach at best; every figure comes from the run that prints it."""
