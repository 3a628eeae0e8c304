"""One file a command: its options and its help. What it does is in `strop.cli`, beside this.

These modules import little, so that `strop --help` is quick: a command imports what it needs when
it runs.
"""
