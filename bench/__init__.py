"""Measurements of Herald on one machine: `python -m bench`; README.md beside this file says what and how."""
