"""The repair loop: finds images that nobody works on and rings for them."""
