"""The command line client: sends pictures to a receiver and says who is in them."""
