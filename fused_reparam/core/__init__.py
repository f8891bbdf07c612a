"""Facts that every part of the package shares, each stated once. It imports torch alone."""
