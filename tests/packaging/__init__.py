"""What is packed, and what serves where it is installed.

The tests build the packages with a stand-in for the compiler. ``make test-install`` installs them
for good, each way in a fresh environment, and is no part of ``make test``.
"""
