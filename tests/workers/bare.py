"""A handler that imports nothing heavy, to see what a child has imported by itself."""

import sys


def modules():
    return sorted(sys.modules)
