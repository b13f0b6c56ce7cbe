"""From one number to the arithmetic that gives it; and what the shapes of a call are."""
