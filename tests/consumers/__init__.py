"""Other packages' own tests, run as they are and with an integration in place.

``make test-consumers`` sets up what they need and runs them; it is no part of ``make test``.
"""
