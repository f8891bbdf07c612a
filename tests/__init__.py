"""The tests, by what they test; docs/testing.md shows the folders."""
