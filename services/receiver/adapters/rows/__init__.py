"""What the receiver keeps in the database, a module for each kind of rows."""
