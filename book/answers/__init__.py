"""What the exercises ask for, a file for a few chapters each."""
