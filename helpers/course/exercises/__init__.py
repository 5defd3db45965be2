"""The exercises of each notebook: hints, checks and tested solutions. checking.py holds what they share."""
