"""One module per fuzz target; each has a TARGET. A new file here is all that a new target needs."""
