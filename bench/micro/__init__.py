"""The pieces of gateway/_fast, one by one, beside their Python twins and what an application would take instead."""
