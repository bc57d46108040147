"""``python -m underway`` is the same as the console script."""

from underway.app.cli import main

main()
