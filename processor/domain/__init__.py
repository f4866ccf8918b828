"""What decides: frozen values in, a value out. No I/O, no clock, no environment."""
