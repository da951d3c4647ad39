"""Neighbours within a slice, degrees, halos."""
