"""The receiver's values and rules, a module for each subject."""
