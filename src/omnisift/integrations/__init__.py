"""Plugins for other people's tools."""
