"""What is compared: called, recorded or read, in one form."""
