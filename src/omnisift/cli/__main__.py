"""``python -m omnisift.cli``: the command where a launcher wants a module, as `accelerate launch -m` does."""

from omnisift.cli import main

main()
