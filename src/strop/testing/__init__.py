"""Conformance suites that every plug-in must pass, the built-in ones included.

They are pytest classes: subclass one in a test file of your own, name your plug-in, and pytest
collects the checks. Needs pytest.
"""
