"""Bridges to TRL's trainers."""
