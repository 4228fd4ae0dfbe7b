"""What of the engine a thread does for a loop: made by scripts/mirror."""
