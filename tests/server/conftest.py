"""Fixtures of the tests of the page in a browser."""

from page_visits import browser, visit

__all__ = ["browser", "visit"]
