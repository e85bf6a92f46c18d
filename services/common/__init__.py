"""What every service shares; it imports none of them."""
