"""``python -m mixvi.cli``."""

from mixvi.cli import main

main()
