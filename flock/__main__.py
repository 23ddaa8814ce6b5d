"""`python -m flock` is `flockctl`."""

from flock.cli import main

main()
