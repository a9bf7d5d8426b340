"""Figures of merit over many examples, and how reconstructions are shown."""
