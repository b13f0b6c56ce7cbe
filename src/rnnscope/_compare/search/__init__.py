"""The search for the mistakes that explain what a candidate returned."""
